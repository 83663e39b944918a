"""Clipping of gradients by their global norm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

NonFinite = Literal["raise", "zero"]


def check_clipping(max_norm: float, nonfinite: str) -> None:
    """Raise ValueError unless the two options of `clip_gradients` are allowed ones."""
    if not max_norm > 0:
        raise ValueError(
            f"`max_norm` must be above 0; got {max_norm}. To leave gradients as they are, do not clip."
        )
    if nonfinite not in ("raise", "zero"):
        raise ValueError(f"`nonfinite` must be 'raise' or 'zero'; got {nonfinite!r}.")


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[Tensor], max_norm: float, *, nonfinite: NonFinite = "raise"
) -> Tensor:
    r"""Scale all gradients in place so that their joint Euclidean norm is at most ``max_norm``.

    .. math:: g_i \leftarrow g_i \min\!\Big(1, \frac{c}{\lVert g \rVert + 10^{-6}}\Big), \qquad
              \lVert g \rVert^2 = \sum_i \lVert g_i \rVert^2

    Parameters without a gradient are passed over, and one listed twice counts once. Call it between
    ``backward`` (after ``scaler.unscale_(optimizer)`` with a GradScaler) and ``optimizer.step``.

    Args:
        parameters: whose ``.grad`` is clipped.
        max_norm: the bound :math:`c`; ``math.inf`` only measures.
        nonfinite: what a NaN or infinite norm does. ``"raise"``: RuntimeError, gradients untouched;
            the host waits for the device to know. ``"zero"``: all gradients become 0, decided on
            the device; the norm that is returned still shows it.

    Shape: returns the norm before clipping, a tensor without axes.
    Raises ValueError if ``max_norm`` is not above 0, RuntimeError as said.
    Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1. Departs from it: the 1e-6 of
    `torch.nn.utils.clip_grad_norm_`, to which it is equal bit for bit on finite gradients.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_gradients([weight], max_norm=1.0)
    tensor(5.)
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """
    check_clipping(max_norm, nonfinite)
    holders = [p for p in {id(p): p for p in parameters}.values() if p.grad is not None]
    grads = [p.grad for p in holders if p.grad is not None]
    norm = get_total_norm(grads)
    usable = norm
    if nonfinite == "zero":
        bad = ~torch.isfinite(norm)
        for grad in grads:
            grad.masked_fill_(bad.to(grad.device), 0)
        usable = norm.masked_fill(bad, 0)
    elif not torch.isfinite(norm):
        raise RuntimeError(
            f"gradients must have a finite norm; got {norm.item()} over {len(grads)} tensors. "
            "Find its source (`athena_core.NotFinite` names it in a run), or pass nonfinite='zero'."
        )
    clip_grads_with_norm_(holders, max_norm, usable)
    return norm

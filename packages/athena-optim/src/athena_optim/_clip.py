"""Clipping of gradients: by their global norm, by value, and by each unit's norm beside its weights'."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from athena_optim._buckets import is_sharded, local, whole
from athena_optim._checks import NonFinite, check_dense

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def check_clipping(options: dict[str, Any]) -> None:
    """Raise ValueError unless each of the clipping options is None or above 0, and at most one is given.

    >>> check_clipping({"max_norm": 1.0, "max_value": 0.1})
    Traceback (most recent call last):
    ValueError: give at most one way of clipping; got `max_norm` and `max_value`. Clip by one of them outside.
    """
    given = [name for name, bound in options.items() if bound is not None]
    for name in given:
        if not options[name] > 0:
            raise ValueError(
                f"`{name}` must be above 0; got {options[name]}. To leave gradients as they are, do not clip."
            )
    if len(given) > 1:
        names = " and ".join(f"`{name}`" for name in given)
        raise ValueError(f"give at most one way of clipping; got {names}. Clip by one of them outside.")


def with_gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Those parameters that have a gradient, each once."""
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    return [p for p in {id(p): p for p in parameters}.values() if p.grad is not None]


def _with_dense_gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """`with_gradients`; raises RuntimeError for a sparse one, which torch's norms and clamps do not take."""
    holders = with_gradients(parameters)
    for index, holder in enumerate(holders):
        assert holder.grad is not None
        check_dense(index, holder.grad)
    return holders


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[Tensor], max_norm: float, *, nonfinite: Literal["raise", "zero"] = "raise"
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

    Shape: returns the norm before clipping, a tensor without axes; of sharded gradients (DTensor), the
    norm of the whole tensors.
    Raises ValueError if ``max_norm`` is not above 0, RuntimeError as said and for sparse gradients.
    Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1. Departs from it: the 1e-6 of
    `torch.nn.utils.clip_grad_norm_`, to which it is equal bit for bit on finite gradients.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_gradients([weight], max_norm=1.0)
    tensor(5.)
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """
    check_clipping({"max_norm": max_norm})
    if nonfinite not in ("raise", "zero"):
        raise ValueError(
            f"`nonfinite` must be 'raise' or 'zero'; got {nonfinite!r}. To skip, look at the norm."
        )
    holders = _with_dense_gradients(parameters)
    norm = total_norm(holders)
    usable = norm
    if nonfinite == "zero":
        bad = ~torch.isfinite(norm)
        zero_gradients(holders, bad)
        usable = norm.masked_fill(bad, 0)
    elif not torch.isfinite(norm):
        raise RuntimeError(
            f"gradients must have a finite norm; got {norm.item()} over {len(holders)} tensors. "
            "Find its source (`athena_core.NotFinite` names it in a run), or pass nonfinite='zero'."
        )
    scale_to_norm(holders, max_norm, usable)
    return norm


@torch.no_grad()
def clip_gradients_by_value(parameters: Iterable[Tensor], max_value: float) -> None:
    r"""Move every element of the gradients in place into :math:`[-c, c]`.

    .. math:: g \leftarrow \min(\max(g, -c), c)

    The direction of the gradient changes. NaN stays NaN.

    Args:
        parameters: whose ``.grad`` is clipped.
        max_value: the bound :math:`c`.

    Raises ValueError if ``max_value`` is not above 0, RuntimeError for sparse gradients.
    Source: Mikolov 2012, PhD thesis (Brno), section 3.3.2; `torch.nn.utils.clip_grad_value_`, to which
    it is equal. Departs from it: no.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, -0.5])
    >>> clip_gradients_by_value([weight], max_value=1.0)
    >>> weight.grad
    tensor([ 1.0000, -0.5000])
    """
    check_clipping({"max_value": max_value})
    for alike in by_mesh(_with_dense_gradients(parameters)):
        torch.nn.utils.clip_grad_value_(alike, max_value)


@torch.no_grad()
def clip_gradients_adaptively(
    parameters: Iterable[Tensor], ratio: float = 0.01, *, eps: float = 1e-3
) -> None:
    r"""Scale each unit's gradient in place so that its norm is at most ``ratio`` times its weights' norm.

    .. math:: G_i \leftarrow G_i \min\!\Big(1,\; \lambda\,
              \frac{\max(\lVert W_i \rVert, \epsilon)}{\lVert G_i \rVert}\Big)

    where :math:`i` runs over the first axis of parameters with two or more axes (the output units of
    linear layers and convolutions; of transposed ones, their inputs); a vector or scalar is one unit.

    Args:
        parameters: whose ``.grad`` is clipped. The paper leaves out the last linear layer.
        ratio: :math:`\lambda`.
        eps: least norm :math:`\epsilon` of weights, so that those at 0 can learn.

    Raises ValueError if ``ratio`` or ``eps`` is not above 0, RuntimeError for sparse gradients.
    Source: Brock et al. 2021, arXiv:2102.06171, equation 3. Departs from it: no.

    >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    >>> weight.grad = torch.ones(2, 2)
    >>> clip_gradients_adaptively([weight], ratio=0.1)
    >>> weight.grad
    tensor([[0.3536, 0.3536],
            [0.0354, 0.0354]])
    """
    check_clipping({"ratio": ratio})
    check_clipping({"eps": eps})
    for parameter in _with_dense_gradients(parameters):
        grad = parameter.grad
        assert grad is not None
        axes = tuple(range(1, grad.ndim)) or None
        norm = torch.linalg.vector_norm(grad, dim=axes, keepdim=True)
        bound = torch.linalg.vector_norm(parameter, dim=axes, keepdim=True).clamp(min=eps) * ratio
        scale = torch.where(norm > bound, bound / norm, 1.0).to(grad.dtype)
        if is_sharded(grad):
            # A shard of an axis of one element takes no factor in place: it is not sharded alike.
            product = cast("DTensor", grad * scale)  # torch's stubs know that it is a Tensor
            scaled = product.redistribute(placements=grad.placements)
            local(grad).copy_(local(scaled))
        else:
            grad.mul_(scale)


def by_mesh(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """Parameters that torch's list ops take together: those of one mesh, or of none; at least one list."""
    lists: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        lists.setdefault(getattr(parameter, "device_mesh", None), []).append(parameter)
    return list(lists.values()) or [[]]


def total_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Norm of all gradients together, of whole tensors where they are sharded, over any meshes."""
    parts = [
        whole(get_total_norm([p.grad for p in alike if p.grad is not None])) for alike in by_mesh(parameters)
    ]
    return parts[0] if len(parts) == 1 else get_total_norm(parts)


def scale_to_norm(parameters: Iterable[Tensor], max_norm: float, norm: Tensor) -> None:
    """Scale gradients of the norm ``norm`` to at most ``max_norm``."""
    for alike in by_mesh(parameters):
        clip_grads_with_norm_(alike, max_norm, norm)


def zero_gradients(parameters: Iterable[Tensor], where: Tensor) -> None:
    """Set all gradients to 0 if ``where`` is True, without the host's knowing."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.masked_fill_(where.to(parameter.grad.device), 0)


def _all_finite(parameters: Iterable[Tensor]) -> Tensor:
    """Whether all gradients are finite, in all processes that hold parts of them; a tensor without axes."""
    grads = [p.grad for p in parameters if p.grad is not None]
    parts = [part for part in map(local, grads) if part.numel()]
    # The largest magnitude, not the Euclidean norm: the squares of finite gradients may overflow.
    bad = (~torch.isfinite(get_total_norm(parts, float("inf")))).float()
    for mesh in dict.fromkeys(grad.device_mesh for grad in grads if is_sharded(grad)):
        bad = bad.to(mesh.device_type)  # where every process takes part, also one without elements
        for axis in range(mesh.ndim):
            torch.distributed.all_reduce(bad, group=mesh.get_group(axis))
    return bad == 0


@torch.no_grad()
def usable(parameters: Iterable[Tensor], nonfinite: NonFinite | None, norm: Tensor | None = None) -> bool:
    """Whether a step may be taken: False if a gradient is NaN or infinite and the policy is ``"skip"``.

    ``"raise"`` raises RuntimeError, ``"zero"`` sets all gradients to 0 (decided on the device), None
    does not look. Looking reads every gradient once, unless their ``norm`` is known; ``"raise"`` and
    ``"skip"`` wait for the device.
    """
    if nonfinite is None:
        return True
    holders = _with_dense_gradients(parameters)
    finite = _all_finite(holders) if norm is None else torch.isfinite(norm)
    if nonfinite == "zero":
        zero_gradients(holders, ~finite)
        return True
    if finite:
        return True
    if nonfinite == "skip":
        return False
    raise RuntimeError(
        f"gradients must be finite; at least one of {len(holders)} tensors has NaN or infinity. Find its "
        "source (`athena_core.NotFinite` names it in a run), or pass nonfinite='skip' or 'zero'."
    )


def prepare(
    parameters: Iterable[Tensor],
    *,
    max_norm: float | None,
    max_value: float | None,
    adaptive_clip: float | None,
    nonfinite: NonFinite | None,
) -> bool:
    """Clip gradients in the one way that is given, and say whether a step may be taken, as `usable` does."""
    if (max_norm, max_value, adaptive_clip, nonfinite) == (None, None, None, None):
        return True
    holders = _with_dense_gradients(parameters)
    if max_norm is not None:
        if nonfinite == "skip":
            norm = total_norm(holders)
            if not usable(holders, "skip", norm):
                return False
            scale_to_norm(holders, max_norm, norm)
        else:
            clip_gradients(holders, max_norm, nonfinite=nonfinite or "raise")
        return True
    if not usable(holders, nonfinite):
        return False
    if max_value is not None:
        clip_gradients_by_value(holders, max_value)
    if adaptive_clip is not None:
        clip_gradients_adaptively(holders, adaptive_clip)
    return True

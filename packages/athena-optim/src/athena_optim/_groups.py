"""Parameter groups: which parameters weight decay pulls to zero."""

from __future__ import annotations

from typing import Any

from torch import nn


def param_groups(model: nn.Module, *, weight_decay: float | None = None) -> list[dict[str, Any]]:
    """Split a model's parameters into those that decay (two or more axes) and those that do not.

    Matrices decay: the weights of linear layers, convolutions and embeddings. Vectors and scalars do
    not: biases and the gains of norms, where a pull to zero has no use as a prior. Embeddings decay
    too, as in GPT-3's training and nanoGPT; a parameter used in two places (tied embeddings) appears
    once, and frozen ones (``requires_grad=False``) not at all.

    Args:
        weight_decay: decay of the matrices; None leaves it to the optimizer's own default.

    Returns groups in the order decaying, not decaying; an empty one is left out.
    Raises ValueError if ``weight_decay`` is negative or NaN, or no parameter is trainable.
    Source: Brown et al. 2020, arXiv:2005.14165, appendix B (decay 0.1); which parameters is the
    convention of its public reimplementations. Departs from it: no.

    >>> model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5))
    >>> [(len(group["params"]), group["weight_decay"]) for group in param_groups(model, weight_decay=0.1)]
    [(1, 0.1), (3, 0.0)]
    """
    if weight_decay is not None and not weight_decay >= 0:
        raise ValueError(f"`weight_decay` must be at least 0; got {weight_decay}. 0 is none.")
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError(f"`model` must have a trainable parameter; {type(model).__name__} has none.")
    decaying: dict[str, Any] = {"params": [p for p in trainable if p.ndim >= 2]}
    if weight_decay is not None:
        decaying["weight_decay"] = weight_decay
    others = {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0}
    return [group for group in (decaying, others) if group["params"]]

"""Masks: which weights are kept, exactly as many as asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from athena_compress._smallest import smallest

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by width in bytes


def global_masks(scores: Mapping[str, Tensor], count: int, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Masks that prune exactly ``count`` of all elements, those of the smallest scores.

    .. math:: |\{i : m_i = 0\}| = \min(c,\; N - n_{\text{tensors}})

    Args:
        scores: finite scores by name.
        count: elements pruned in all, those that are pruned already among them.
        kept: the masks so far, True where kept; what they prune stays pruned.

    At least one element of each tensor is kept: its largest score, the last of equal ones. Ties go by
    position, so masks are the same on any machine.
    Source: Athena's own. Departs from it: no.

    >>> scores = {"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([2.0, 3.0])}
    >>> every = {name: torch.ones(2, dtype=torch.bool) for name in scores}
    >>> global_masks(scores, 2, every)
    {'a': tensor([False,  True]), 'b': tensor([False,  True])}
    """
    names = [name for name in scores if scores[name].numel()]
    if not names:
        return dict(kept)
    device = scores[names[0]].device
    ranked = [_ranked(scores[name], kept[name]).to(device) for name in names]
    total = sum(part.numel() for part in ranked)
    pruned = smallest(torch.cat(ranked), min(count, total - len(names)))
    masks = dict(kept)
    for name, part in zip(names, pruned.split([part.numel() for part in ranked]), strict=True):
        masks[name] = kept[name] & ~part.view(kept[name].shape).to(kept[name].device)
    return masks


def spared(scores: Mapping[str, Tensor], count: int, masks: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors of which one element is left only because one must be."""
    alone = [name for name, mask in masks.items() if mask.numel() > 1 and int(mask.sum()) == 1]
    if not alone:
        return []
    filled = [name for name in masks if masks[name].numel()]
    if count > sum(masks[name].numel() for name in filled) - len(filled):
        return alone
    pruned = [scores[name][~masks[name]] for name in filled]
    worst = max((float(part.max()) for part in pruned if part.numel()), default=-torch.inf)
    return [name for name in alone if float(scores[name][masks[name]]) < worst]


def _ranked(scores: Tensor, kept: Tensor) -> Tensor:
    """Flat scores where what is pruned comes first and the largest last of all."""
    ranked = scores.flatten().masked_fill(~kept.flatten(), -torch.inf)
    last = ranked.numel() - 1 - int(ranked.flip(0).argmax())
    ranked[last] = torch.inf
    return ranked


def row_mask(rows: Tensor, sparsity: float, kept: Tensor) -> Tensor:
    """The mask that prunes ``round(sparsity * columns)`` of each row, and keeps at least one of it.

    Shape: ``(rows, columns) -> (rows, columns)``.

    >>> row_mask(torch.tensor([[1.0, 2.0], [4.0, 3.0]]), 0.5, torch.ones(2, 2, dtype=torch.bool))
    tensor([[False,  True],
            [ True, False]])
    """
    columns = rows.shape[1]
    count = min(round(sparsity * columns), columns - 1)
    return kept & ~_first_of_each(rows.masked_fill(~kept, -torch.inf), count)


def pattern_mask(scores: Tensor, keep: int, of: int, *, axis: int = 1) -> Tensor:
    r"""The n:m mask: of every ``of`` consecutive weights along ``axis`` the ``keep`` most important are kept.

    .. math:: \sum_{i \in \text{block}} m_i = n

    Args:
        scores: of the weight's shape.
        keep: :math:`n`.
        of: :math:`m`; the axis must be a multiple of it.
        axis: the one that a product with the weight sums over.

    Raises ValueError if the axis is not a multiple of ``of``.
    Source: Mishra et al. 2021, arXiv:2104.08378, section 3, which has 2:4. Departs from it: no.

    >>> pattern_mask(torch.tensor([[1.0, 4.0, 2.0, 3.0]]), 2, 4).int()
    tensor([[0, 1, 0, 1]], dtype=torch.int32)
    """
    size = scores.shape[axis]
    if size % of:
        raise ValueError(
            f"`axis` {axis} must hold a multiple of {of} weights; got {size}. Skip the layer, or pad it."
        )
    blocks = scores.movedim(axis, -1)
    flat = blocks.reshape(-1, of)
    mask = ~_first_of_each(flat, of - keep)
    return mask.view(blocks.shape).movedim(-1, axis).contiguous()


def _first_of_each(rows: Tensor, count: int) -> Tensor:
    """Where the ``count`` smallest of each row are, ties by position."""
    found = torch.zeros_like(rows, dtype=torch.bool)
    if count <= 0 or not rows.numel():
        return found
    order = rows.sort(dim=1, stable=True).indices[:, :count]
    return found.scatter_(1, order, True)


def parse_pattern(what: str) -> tuple[int, int] | None:
    """(2, 4) of ``"2:4"``; None for another word. Raises ValueError for a pattern that prunes nothing or all.

    >>> parse_pattern("2:4")
    (2, 4)
    """
    found = re.fullmatch(r"(\d+):(\d+)", what)
    if not found:
        return None
    keep, of = int(found[1]), int(found[2])
    if not 1 <= keep < of:
        raise ValueError(
            f"`what` must keep at least 1 of n:m weights and prune one; got {what!r}. Try '2:4'."
        )
    return keep, of


class Eraser:
    """Sets what a mask prunes to exactly 0, whatever stands there, NaN as well.

    A bitwise and with integers of the elements' width, all ones where kept: on a CPU many times as fast as
    filling by a boolean mask.

    >>> values = torch.tensor([1.0, float("nan")])
    >>> Eraser(torch.tensor([True, False])).erase(values)
    >>> values
    tensor([1., 0.])
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self._bits: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    @torch.no_grad()
    def erase(self, values: Tensor) -> None:
        """Set the pruned elements of a tensor of the mask's shape to 0, in place."""
        whole = _INTEGERS[values.element_size()]
        key = whole, values.device
        if key not in self._bits:
            self._bits[key] = -self.mask.to(values.device, whole)
        values.detach().view(whole).bitwise_and_(self._bits[key])

    def erase_with_state(self, parameter: nn.Parameter, optimizer: Optimizer | None) -> None:
        """Zero what is pruned in the parameter and in all the optimizer's state of the parameter's shape.

        With its moments at 0, too, no momentum moves the weight away from 0 before the next time.

        >>> weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
        >>> weight.grad = torch.ones(2)
        >>> optimizer.step()
        >>> Eraser(torch.tensor([False, True])).erase_with_state(weight, optimizer)
        >>> weight.data, optimizer.state[weight]["momentum_buffer"]
        (tensor([0., 1.]), tensor([0., 1.]))
        """
        self.erase(parameter)
        for held in _moments(parameter, optimizer):
            self.erase(held)


def _moments(parameter: nn.Parameter, optimizer: Optimizer | None) -> Iterator[Tensor]:
    """State of the parameter's shape, also of optimizers that this one wraps."""
    while optimizer is not None:
        entries = optimizer.state.get(parameter, {}).values()
        yield from (e for e in entries if isinstance(e, Tensor) and e.shape == parameter.shape)
        inner = getattr(optimizer, "optimizer", None)
        optimizer = inner if isinstance(inner, Optimizer) else None

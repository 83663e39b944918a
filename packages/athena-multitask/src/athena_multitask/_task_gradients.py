"""Gradients of several losses: one row a task for shared parameters, the plain sum for all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from athena_multitask._balance_checks import check_dependence
from athena_multitask._loss_graph import Leaves, LossGraph, loss_graph

Gradients = Sequence[Tensor | None]


class TaskGradients(NamedTuple):
    """Gradients of the shared parameters, one row a task, of the others by parameter, and losses that failed.

    >>> TaskGradients(torch.ones(2, 3), {}, torch.tensor([False, True])).matrix.shape
    torch.Size([2, 3])
    """

    matrix: Tensor
    others: dict[Tensor, Tensor]
    failed: Tensor


def differentiate(
    losses: Mapping[str, Tensor],
    shared: Sequence[Tensor],
    counts: Mapping[str, int],
    *,
    scale: Tensor | None,
    retain_graph: bool,
) -> TaskGradients:
    """Differentiate each loss for all leaves that it depends on.

    What all losses share is entered once a task, with the gradient where they enter it, so that what lies
    below the shared parameters is passed once and no more. Memory is the matrix and the gradient of one task.

    Args:
        losses: scalars by name, in the order of ``counts``.
        shared: leaves that become columns of the matrix.
        counts: tasks that become rows, zero without a loss; parameters that are not shared get of a loss its
            share, one over the count.
        scale: a scalar by which all gradients are multiplied from their losses on, or None.
        retain_graph: keep what was saved for differentiating.

    Raises ValueError for a loss that depends on no shared parameter.

    >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> losses = {"a": weight.sum(), "b": weight.prod()}
    >>> differentiate(losses, [weight], {"a": 1, "b": 1}, scale=None, retain_graph=False).matrix
    tensor([[1., 1.],
            [2., 1.]])
    """
    collected = _Collected(shared, counts, scale)
    rows = [row for row, name in enumerate(counts) if name in losses]
    given = [losses[name] for name in counts if name in losses]
    failed = collected.matrix.new_zeros(len(counts), dtype=torch.bool)
    if given:
        graph = loss_graph(given)
        check_dependence([name for name in counts if name in losses], graph, shared)
        failed[rows] = ~torch.stack([loss.detach() for loss in given]).isfinite()
        walk = _through_entries if graph.entries else _each_alone
        walk(given, rows, graph, collected, retain_graph=retain_graph)
    return TaskGradients(collected.matrix, collected.others, failed)


class _Collected:
    """Rows that are written as gradients come, and sums of those that are no rows."""

    def __init__(self, shared: Sequence[Tensor], counts: Mapping[str, int], scale: Tensor | None) -> None:
        sizes = [parameter.numel() for parameter in shared]
        dtype = shared[0].dtype
        for parameter in shared:
            dtype = torch.promote_types(dtype, parameter.dtype)
        self.matrix = torch.zeros(len(counts), sum(sizes), dtype=dtype, device=shared[0].device)
        parts = self.matrix.split(sizes, dim=1)
        self.blocks = {
            one: part.view(len(counts), *one.shape) for one, part in zip(shared, parts, strict=True)
        }
        self.shares = [1 / count for count in counts.values()]
        self.others: dict[Tensor, Tensor] = {}
        self.scale = scale

    def add_of(
        self, loss: Tensor, row: int, leaves: Leaves, entries: Sequence[GradientEdge] = (), *, keep: bool
    ) -> Gradients:
        """Gradients of a task's loss for leaves; those at entries are returned."""
        scale = None if self.scale is None else self.scale.to(loss.dtype)
        wanted = [*leaves.values(), *entries]
        found = torch.autograd.grad(loss, wanted, scale, retain_graph=keep, allow_unused=True)
        self.add(row, leaves, found[: len(leaves)])
        return found[len(leaves) :]

    def add(self, row: int, leaves: Iterable[Tensor], gradients: Gradients) -> None:
        """Gradients of one task's loss."""
        for leaf, gradient in zip(leaves, gradients, strict=True):
            if gradient is None:
                continue
            block = self.blocks.get(leaf)
            if block is None:
                self.add_other(leaf, _part(gradient, self.shares[row]))
            else:
                block[row].copy_(gradient.to_dense() if gradient.is_sparse else gradient)

    def add_other(self, leaf: Tensor, gradient: Tensor) -> None:
        before = self.others.get(leaf)
        self.others[leaf] = gradient if before is None else before + gradient


def _part(gradient: Tensor, share: float) -> Tensor:
    return gradient if share == 1 else gradient * share


def _each_alone(
    losses: Sequence[Tensor],
    rows: Sequence[int],
    graph: LossGraph,
    collected: _Collected,
    *,
    retain_graph: bool,
) -> None:
    for task, (loss, row) in enumerate(zip(losses, rows, strict=True)):
        keep = retain_graph or task < len(losses) - 1
        collected.add_of(loss, row, graph.own[task] | graph.common, keep=keep)


def _through_entries(
    losses: Sequence[Tensor],
    rows: Sequence[int],
    graph: LossGraph,
    collected: _Collected,
    *,
    retain_graph: bool,
) -> None:
    shared = {leaf: edge for leaf, edge in graph.common.items() if leaf in collected.blocks}
    others = {leaf: edge for leaf, edge in graph.common.items() if leaf not in collected.blocks}
    sums: Gradients = [None] * len(graph.entries)
    for task, (loss, row, own) in enumerate(zip(losses, rows, graph.own, strict=True)):
        keep = retain_graph or not graph.separate
        entering = collected.add_of(loss, row, own, graph.entries, keep=keep)
        if shared:
            keep = retain_graph or bool(others) or task < len(losses) - 1
            collected.add(row, shared, _from_entries(graph.entries, shared, entering, retain_graph=keep))
        if others:
            share = collected.shares[row]
            sums = [_sum(one, part, share) for one, part in zip(sums, entering, strict=True)]
    if others:
        found = _from_entries(graph.entries, others, sums, retain_graph=retain_graph)
        for leaf, gradient in zip(others, found, strict=True):
            if gradient is not None:
                collected.add_other(leaf, gradient)


def _sum(total: Tensor | None, gradient: Tensor | None, share: float) -> Tensor | None:
    if gradient is None:
        return total
    return _part(gradient, share) if total is None else total + _part(gradient, share)


def _from_entries(
    entries: Sequence[GradientEdge], leaves: Leaves, gradients: Gradients, *, retain_graph: bool
) -> Gradients:
    entered = [(edge, one) for edge, one in zip(entries, gradients, strict=True) if one is not None]
    edges, given = [edge for edge, _ in entered], [one for _, one in entered]
    return torch.autograd.grad(
        edges, list(leaves.values()), given, retain_graph=retain_graph, allow_unused=True
    )

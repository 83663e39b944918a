"""The autograd graph under several losses: what all of them share, and what each has of its own."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.graph import GradientEdge

Node = Any  # torch's own are made in C++ and share no class
Edge = tuple[Node, int]
Leaves = dict[Tensor, GradientEdge]


class LossGraph(NamedTuple):
    """The graph of several losses, cut where they enter what all of them share.

    Args:
        entries: the edges by which losses enter the common part; none where it cannot be cut off.
        common: the leaves of the common part, with the edges by which gradients reach them.
        own: for each loss, those that it reaches without the common part.
        separate: no two losses share a node outside of the common part.

    >>> import torch
    >>> weight = torch.ones(2, requires_grad=True)
    >>> features = weight * 3
    >>> graph = loss_graph([features.sum(), features.prod()])
    >>> len(graph.entries), weight in graph.common, graph.own
    (1, True, [{}, {}])
    """

    entries: list[GradientEdge]
    common: Leaves
    own: list[Leaves]
    separate: bool


def loss_graph(losses: Sequence[Tensor]) -> LossGraph:
    """Find what all losses reach, by one walk over the common part and one over what each has of its own."""
    roots = _roots(losses)
    common, _ = _walk(roots[:1])
    frontier: set[Node] | None = None
    for root in roots[1:]:
        _, entered = _walk([root], common)
        nodes = {node for node, _ in entered}
        if nodes != frontier:
            common, frontier = _walk(entered)[0], nodes
    own: list[Leaves] = []
    entries: dict[Edge, None] = {}
    outside: set[Node] = set()
    visited = 0
    for root in roots:
        reached, entered = _walk([root], common)
        own.append(_leaves(reached))
        entries |= entered
        visited += len(reached)
        outside |= reached.keys()
    cut = len(losses) > 1 and not _nested({node for node, _ in entries})
    edges = [GradientEdge(*edge) for edge in entries] if cut else []
    return LossGraph(edges, _leaves(common), own, visited == len(outside))


def nodes_of(losses: Sequence[Tensor]) -> Iterable[Node]:
    """All nodes of the graph under several losses.

    >>> import torch
    >>> weight = torch.ones(2, requires_grad=True)
    >>> [type(node).__name__ for node in nodes_of([weight.sum()])]
    ['SumBackward0', 'AccumulateGrad']
    """
    return _walk(_roots(losses))[0]


def _roots(losses: Sequence[Tensor]) -> list[Edge]:
    return [(loss.grad_fn, loss.output_nr) for loss in losses]


def _walk(edges: Iterable[Edge], stop: Container[Node] = ()) -> tuple[dict[Node, None], dict[Edge, None]]:
    """Nodes in the order in which they are met, and the edges into ``stop``, which are not followed."""
    reached: dict[Node, None] = {}
    entered: dict[Edge, None] = {}
    waiting = list(edges)
    while waiting:
        edge = waiting.pop()
        node = edge[0]
        if node is None or node in reached:
            continue
        if node in stop:
            entered[edge] = None
            continue
        reached[node] = None
        waiting += node.next_functions
    return reached, entered


def _nested(frontier: set[Node]) -> bool:
    """Whether a gradient at one entry would go through another, or there is nothing behind one."""
    if not frontier or any(_is_leaf(node) for node in frontier):
        return True
    behind = [edge for node in frontier for edge in node.next_functions]
    return not frontier.isdisjoint(_walk(behind)[0])


def _is_leaf(node: Node) -> bool:
    return type(node).__name__ == "AccumulateGrad"


def _leaves(nodes: Iterable[Node]) -> Leaves:
    return {node.variable: GradientEdge(node, 0) for node in nodes if _is_leaf(node)}

"""Where subgoals come from: anywhere, where one has been, or the doorways of what was visited."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray


def uniform_subgoals(space: spaces.Box, count: int, *, random: np.random.Generator) -> NDArray[np.float64]:
    """Subgoals drawn uniformly from a bounded box of goals.

    Shape: ``(count, *shape)``. Raises ValueError for a box without bounds.
    Source: Florensa et al. 2018, arXiv:1705.06366 (the baseline "uniform sampling").
    Departs from it: no.

    >>> goals = uniform_subgoals(spaces.Box(-1, 1, (2,)), 5, random=np.random.default_rng(0))
    >>> goals.shape, bool((np.abs(goals) <= 1).all())
    ((5, 2), True)
    """
    if not space.is_bounded():
        raise ValueError(f"`space` must be bounded to draw from; got {space}. Give low and high of goals.")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return random.uniform(low, high, (count, *space.shape))


def achieved_subgoals(
    achieved: ArrayLike, count: int, *, bins: int, random: np.random.Generator
) -> NDArray[np.float64]:
    r"""Subgoals among achieved goals, where they are sparse as likely as where they are dense.

    .. math:: p(g) \propto \frac{1}{n(\operatorname{cell}(g))}

    with cells a grid of ``bins`` an axis over what was achieved: a cell first, then a goal in it.

    Args:
        achieved: goals achieved so far, at least one.
        bins: cells an axis; 1 draws uniformly from the goals.

    Shape: ``(n, G) -> (count, G)``. Raises ValueError for none, or goals that are not finite.
    Source: Pong et al. 2020, arXiv:1903.03698 (Skew-Fit), with :math:`\alpha = -1`. Departs from it:
    a histogram takes the place of the generative model.

    >>> achieved = [[0.0]] * 98 + [[1.0]] * 2
    >>> drawn = achieved_subgoals(achieved, 1000, bins=2, random=np.random.default_rng(0))
    >>> bool(0.4 < drawn.mean() < 0.6)
    True
    """
    goals = np.asarray(achieved, dtype=np.float64)
    if goals.ndim != 2 or len(goals) == 0 or bins < 1 or not np.isfinite(goals).all():
        raise ValueError(
            f"`achieved` must be finite goals (n, G), n and `bins` at least 1; got the shape {goals.shape} "
            f"and {bins} bins."
        )
    low, width = goals.min(0), np.ptp(goals, axis=0)
    cells = np.minimum((goals - low) / np.where(width > 0, width, 1) * bins, bins - 1).astype(np.int64)
    _, cell, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    chance = 1 / counts[cell.ravel()]
    return goals[random.choice(len(goals), count, p=chance / chance.sum())]


def betweenness(n_states: int, edges: Iterable[tuple[int, int]]) -> NDArray[np.float64]:
    r"""How many shortest paths lead through each state of a directed graph.

    .. math:: b(v) = \sum_{s \neq v \neq t} \frac{\sigma_{st}(v)}{\sigma_{st}}

    with :math:`\sigma_{st}` the number of shortest paths from s to t, and :math:`\sigma_{st}(v)` of those
    through v. Takes time of the order of states times edges.

    Args:
        n_states: numbered from 0.
        edges: transitions; the same one twice, or one that stays, counts nothing.

    Shape: ``(n_states,)``. Raises ValueError for a state there is not.
    Source: Brandes 2001, "A faster algorithm for betweenness centrality", algorithm 1. Departs from it: no.

    >>> betweenness(3, [(0, 1), (1, 0), (1, 2), (2, 1)]).tolist()
    [0.0, 2.0, 0.0]
    """
    successors = _successors(n_states, edges)
    scores = np.zeros(n_states)
    for source in range(n_states):
        order, paths, before = _shortest_paths(source, successors)
        share = np.zeros(n_states)  # of all pairs that start here
        for state in reversed(order):
            for previous in before[state]:
                share[previous] += paths[previous] / paths[state] * (1 + share[state])
            if state != source:
                scores[state] += share[state]
    return scores


def bottlenecks(n_states: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """States through which more shortest paths lead than through any neighbour: doorways.

    Neighbours are those one step away in either direction; of equals none is one. The highest come first.

    Args: as those of `betweenness`.

    Source: Şimşek and Barto 2008, "Skill characterization based on betweenness", NIPS (local maxima of
    betweenness as subgoals). Departs from it: all paths weigh the same.

    >>> rooms = [(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (4, 5), (5, 6), (4, 6)]
    >>> bottlenecks(7, rooms + [(there, here) for here, there in rooms])
    [3]
    """
    edges = list(edges)
    scores = betweenness(n_states, edges)
    both = _successors(n_states, [*edges, *((there, here) for here, there in edges)])
    found = [
        state
        for state in range(n_states)
        if scores[state] > 0 and all(scores[state] > scores[other] for other in both[state])
    ]
    return sorted(found, key=lambda state: (-scores[state], state))


def _successors(n_states: int, edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    found: list[set[int]] = [set() for _ in range(n_states)]
    for here, there in edges:
        if not (0 <= here < n_states and 0 <= there < n_states):
            raise ValueError(f"`edges` must join states of 0 to {n_states - 1}; got {(here, there)}.")
        if here != there:
            found[here].add(there)
    return [sorted(others) for others in found]


def _shortest_paths(
    source: int, successors: Sequence[Sequence[int]]
) -> tuple[list[int], NDArray[np.float64], Mapping[int, list[int]]]:
    """States in order of their distance, numbers of shortest paths to each, and the states before each."""
    distance, paths = {source: 0}, np.zeros(len(successors))
    before: dict[int, list[int]] = {source: []}
    paths[source] = 1
    order, queue = [], deque([source])
    while queue:
        state = queue.popleft()
        order.append(state)
        for other in successors[state]:
            if other not in distance:
                distance[other], before[other] = distance[state] + 1, []
                queue.append(other)
            if distance[other] == distance[state] + 1:
                paths[other] += paths[state]
                before[other].append(state)
    return order, paths, before

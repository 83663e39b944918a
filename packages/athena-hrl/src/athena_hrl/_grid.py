"""Worlds of square cells: which are free, which is beside which, and the ways between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from athena_core.environments import painted

WALL, FLOOR, GOAL, AGENT = (70, 75, 85), (240, 240, 235), (0, 158, 115), (213, 94, 0)
MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])  # up, down, left, right: rows grow downwards
Integers = NDArray[np.int64]


def free_cells(layout: Sequence[str], *, name: str = "layout", marks: str = "") -> NDArray[np.bool_]:
    """Which characters of a layout are free: "#" is a wall, " " and each of ``marks`` is not.

    Raises ValueError for lines of unequal length, other characters, an edge that is not all wall, or no free
    cell.

    >>> free_cells(["####", "#  #", "####"])[1].tolist()
    [False, True, True, False]
    """
    if not layout or len({len(line) for line in layout}) != 1:
        raise ValueError(f"`{name}` must have lines of one length; got {[len(line) for line in layout]}.")
    cells = np.array([list(line) for line in layout])
    odd = sorted(set(cells.ravel().tolist()) - set("# " + marks))
    if odd:
        allowed = ", ".join(map(repr, "# " + marks))
        raise ValueError(f"`{name}` must be made of {allowed}; got {odd}.")
    free = cells != "#"
    if free[[0, -1]].any() or free[:, [0, -1]].any():
        raise ValueError(f"`{name}` must have walls '#' all around; got an open edge.")
    if not free.any():
        raise ValueError(f"`{name}` must have a free cell; got walls alone.")
    return free


def neighbours(free: NDArray[np.bool_]) -> Integers:
    """The free cell that each move leads to from each, ``(S, 4)``: a wall leaves one where one was.

    Free cells are numbered row by row, moves as `MOVES`.

    >>> neighbours(free_cells(["####", "#  #", "####"])).tolist()
    [[0, 0, 0, 1], [1, 1, 0, 1]]
    """
    number = np.full(free.shape, -1)
    cells = np.argwhere(free)
    number[free] = np.arange(len(cells))
    there = cells[:, None] + MOVES
    found = number[there[..., 0], there[..., 1]]
    return np.where(found >= 0, found, np.arange(len(cells))[:, None])


def distances(to: Integers, target: int) -> Integers:
    """Steps from each cell to one, ``(S,)``, for `neighbours` ``to``; -1 where there is no way.

    >>> distances(neighbours(free_cells(["#####", "#   #", "#####"])), 2).tolist()
    [2, 1, 0]
    """
    steps = np.full(len(to), -1)
    steps[target] = 0
    edge, step = np.array([target]), 0
    while len(edge):
        step += 1
        edge = np.unique(to[edge])  # moves can be undone: a neighbour is where one may come from
        edge = edge[steps[edge] < 0]
        steps[edge] = step
    return steps


def way_to(to: Integers, target: int) -> Integers:
    """The first move of a shortest way from each cell to one, ``(S,)``; 0 at the target, -1 without a way.

    >>> way_to(neighbours(free_cells(["#####", "#   #", "#####"])), 0).tolist()
    [0, 2, 2]
    """
    steps = distances(to, target)
    moves = np.where(steps[to] < steps[:, None], steps[to], len(to)).argmin(1)
    return np.where(steps < 0, -1, np.where(steps == 0, 0, moves))


def grid_frames(free: NDArray[np.bool_], cell: Integers, goal: Integers, *, pixels: int) -> NDArray[np.uint8]:
    """Pictures ``(N, height, width, 3)`` of the agents and goals in numbered free cells ``(N,)``.

    >>> grid_frames(free_cells(["####", "#  #", "####"]), np.array([0]), np.array([1]), pixels=2).shape
    (1, 6, 8, 3)
    """
    colours = np.where(free[..., None], FLOOR, WALL).astype(np.uint8)
    pictures = np.tile(colours, (len(cell), 1, 1, 1)).reshape(len(cell), -1, 3)
    place, rows = np.flatnonzero(free), np.arange(len(cell))
    pictures[rows, place[goal]] = GOAL
    pictures[rows, place[cell]] = AGENT
    return painted(pictures.reshape(len(cell), *free.shape, 3), pixels)

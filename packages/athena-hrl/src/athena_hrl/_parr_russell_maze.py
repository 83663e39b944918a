"""A maze of hallways with obstacles, in the manner of the one on which abstract machines were first tried."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from athena_core.environments import (
    Advanced,
    Dynamics,
    NumpyEnv,
    NumpyVectorEnv,
    State,
    VisitMap,
    Words,
    draw,
)
from athena_hrl._grid import MOVES, grid_frames, neighbours

WIDTH, LENGTH = 4, 13  # of a hallway between two intersections, in cells
SIDES = (2, 3), (2, 3), (0, 1), (0, 1)  # the moves across each move
Integers = NDArray[np.int64]


class MazePlace(NamedTuple):
    """Where a state is; numbers are -1 where it is not of the kind.

    >>> ParrRussellMaze(intersections=2).place(0)
    MazePlace(row=1, column=1, intersection=0, hallway=-1)
    """

    row: int
    column: int
    intersection: int
    hallway: int


class ParrRussellMaze(Dynamics):
    r"""A robot goes through hallways with obstacles, from the upper left intersection to the lower right one.

    ``intersections`` by ``intersections`` of them, 4 cells wide, are joined by hallways as wide and 13 long.
    Across each hallway stands an obstacle of two cells, which leaves two to pass by. With 6 by 6 there are
    3,576 free cells, which are the states, row by row.

    Actions are up, down, left and right. With probability ``slip`` the robot goes to one of the two sides
    instead, each as likely. What would enter a wall stays. Each step costs 1; the first cell of the last
    intersection ends the episode. Episodes begin in the first cell of the first one.

    Args:
        intersections: on each side, at least 2.
        slip: the chance to go aside.
        obstacle_seed: of where the obstacles stand.

    Attributes:
        cells: row and column of each state, ``(S, 2)``.
        intersections: the number of the intersection that each state is in, row by row, or -1, ``(S,)``.
        hallways: the number of the hallway that each state is in, or -1, ``(S,)``.
        exits: the hallway in the direction of each move from each intersection, or -1, ``(I, 4)``.
        next_state: where each move leads that does not slip, ``(S, 4)``: a wall leaves one where one was.
        outcomes, chances: where each action may lead, ``(S, 4, 3)``, and how likely that is, ``(3,)``.
        start_state, goal_state: one of each.

    Raises ValueError for fewer than 2 intersections or a chance outside [0, 1].
    Source: in the manner of Parr, Russell 1998, "Reinforcement learning with hierarchies of machines", NIPS
    10. Departs from it: the paper draws a map of about as many states and gives no list of its walls;
    hallways, obstacles, slip and rewards are chosen here.

    >>> maze = ParrRussellMaze()
    >>> maze.observation_space, maze.place(maze.goal_state)
    (Discrete(3576), MazePlace(row=86, column=86, intersection=35, hallway=-1))
    >>> env = ParrRussellMazeEnv(slip=0.0)
    >>> env.reset(seed=0)[0], env.step(3)[:3], env.step(0)[:3]
    (np.int64(0), (np.int64(1), -1.0, False), (np.int64(1), -1.0, False))
    """

    def __init__(self, *, intersections: int = 6, slip: float = 0.2, obstacle_seed: int = 0) -> None:
        if intersections < 2:
            raise ValueError(f"`intersections` must be at least 2 on each side; got {intersections}.")
        if not 0 <= slip <= 1:
            raise ValueError(f"`slip` must lie in [0, 1]; got {slip}.")
        self.slip = slip
        kinds, self.exits = _floor_plan(intersections)
        self.free = (kinds[0] >= 0) | (kinds[1] >= 0)
        _place_obstacles(self.free, kinds[1], np.random.default_rng(obstacle_seed))
        self.cells = np.argwhere(self.free)
        self.intersections, self.hallways = (kind[self.free] for kind in kinds)
        self.next_state = neighbours(self.free)
        aside = self.next_state[:, np.array(SIDES)]
        self.outcomes = np.concatenate([self.next_state[:, :, None], aside], axis=2)
        self.chances = np.array([1 - slip, slip / 2, slip / 2])
        self.start_state = 0
        self.goal_state = int(np.flatnonzero(self.intersections == intersections**2 - 1)[0])
        self.observation_space = spaces.Discrete(len(self.cells))
        self.action_space = spaces.Discrete(4)

    def place(self, state: int) -> MazePlace:
        """Row and column of a state, and its intersection or hallway."""
        row, column = self.cells[state].tolist()
        return MazePlace(row, column, int(self.intersections[state]), int(self.hallways[state]))

    def start(self, random: Words) -> State:
        return {"random": random, "cell": np.full(len(random), self.start_state)}

    def advance(self, state: State, action: Integers) -> Advanced:
        drawn, random = draw(state["random"], 1)
        chance = drawn[:, 0]
        way = (chance < self.slip).astype(np.int64) + (chance < self.slip / 2)
        cell = self.outcomes[state["cell"], action, way]
        return Advanced({"random": random, "cell": cell}, np.full(len(cell), -1.0), cell == self.goal_state)

    def observe(self, state: State) -> Integers:
        return state["cell"].copy()

    def position(self, observation: Any) -> NDArray[np.float64]:
        """Row and column of each state, ``(..., 2)``."""
        return self.cells[np.asarray(observation)].astype(np.float64)

    def visit_map(self) -> VisitMap:
        side = len(self.free)
        return VisitMap([-0.5] * 2, [side - 0.5] * 2, [side] * 2, reachable=self.free)

    def frames(self, state: State) -> NDArray[np.uint8]:
        cell = state["cell"]
        return grid_frames(self.free, cell, np.full(len(cell), self.goal_state), pixels=6)


def _floor_plan(count: int) -> tuple[tuple[Integers, Integers], Integers]:
    """Numbers of intersections and hallways by cell, -1 elsewhere, and the hallways at each intersection."""
    pitch = WIDTH + LENGTH
    side = count * pitch - LENGTH + 2
    intersections, hallways = np.full((side, side), -1), np.full((side, side), -1)
    exits = np.full((count * count, 4), -1)
    number = 0
    for place in range(count * count):
        corner = np.array(divmod(place, count)) * pitch + 1
        _block(intersections, corner, (WIDTH, WIDTH))[...] = place
        for move, back, other in ((3, 2, place + 1), (1, 0, place + count)):
            if (place + 1) % count == 0 if move == 3 else other >= count * count:
                continue
            size = (WIDTH, LENGTH) if move == 3 else (LENGTH, WIDTH)
            _block(hallways, corner + WIDTH * MOVES[move], size)[...] = number
            exits[place, move] = exits[other, back] = number
            number += 1
    return (intersections, hallways), exits


def _place_obstacles(free: NDArray[np.bool_], hallways: Integers, rng: np.random.Generator) -> None:
    """Put an obstacle across half of each hallway, not in its first or last three cells, in place."""
    for number in range(int(hallways.max()) + 1):
        top, left = np.argwhere(hallways == number)[0]
        along, across = int(rng.integers(3, LENGTH - 3)), int(rng.integers(WIDTH - 1))
        if hallways[top, left + WIDTH] == number:  # longer than wide: it runs from left to right
            free[top + across : top + across + 2, left + along] = False
        else:
            free[top + along, left + across : left + across + 2] = False


def _block(cells: Integers, corner: Integers, size: tuple[int, int]) -> Integers:
    top, left = corner
    return cells[top : top + size[0], left : left + size[1]]


class ParrRussellMazeEnv(NumpyEnv):
    """One `ParrRussellMaze`; what `gymnasium.make` builds."""

    dynamics: ParrRussellMaze

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(ParrRussellMaze(**options), render_mode=render_mode)


class ParrRussellMazeVectorEnv(NumpyVectorEnv):
    """Many of `ParrRussellMaze`; what `gymnasium.make_vec` builds. ``options`` are split between both."""

    dynamics: ParrRussellMaze

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        own, rest = self.split_options(options)
        super().__init__(ParrRussellMaze(**rest), num_envs, **own)

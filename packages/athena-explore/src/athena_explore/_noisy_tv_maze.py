"""Rooms with a far goal, and in the first one a television that nothing can predict."""

from __future__ import annotations

from typing import Any

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
    painted,
)

_MOVES = (-1, 0), (0, 1), (1, 0), (0, -1)  # up, right, down, left
_PRESS = len(_MOVES)
_SCREEN = 4  # rows and columns of the television
_FLOOR, _WALL, _GOAL, _AGENT = (240, 240, 240), (60, 60, 60), (70, 170, 80), (200, 40, 40)
_SQUARE = 8  # pixels of a cell in a picture


class NoisyTVMaze(Dynamics):
    r"""``rooms`` by ``rooms`` square rooms with a door between neighbours; reward 1 at the goal, 0 before.

    The agent starts in the middle of the first room; the goal, where the episode terminates, is in the middle
    of the last. Actions 0 to 3 move up, right, down, left; action 4 presses the button of a television that
    hangs in the first room and is seen, and works, there alone. A press shows one of ``channels`` pictures
    at random. What it shows next cannot be known, so that an agent paid for errors of prediction stays; one
    paid for states it has not seen has seen them all after a while, unless ``channels`` is None.

    Observations are row and column, from 0 to 1, and the 16 grey values of the screen, 0 outside of its room.
    The limit of time is 200 steps.

    Args:
        rooms: along each side.
        room_size: cells along each side of a room.
        noise: False leaves the television on its first picture, whatever is pressed; nothing else differs.
        channels: how many pictures there are; None makes each press a new one.

    Raises ValueError for fewer than 2 rooms, rooms below 1 cell, or fewer than 2 channels.
    Source: the television that an action changes: Burda et al. 2018, arXiv:1808.04355; pictures in a limited
    number: Savinov et al. 2018, arXiv:1810.02274. Departs from them: a vector that tells the place in rooms
    seen from above, where theirs are pictures from inside a 3-D maze.

    >>> from athena_core.environments import NumpyVectorEnv
    >>> env = NumpyVectorEnv(NoisyTVMaze(rooms=2, room_size=3), 2)
    >>> before, _ = env.reset(seed=0)
    >>> after = env.step(np.array([4, 1]))[0]
    >>> env.position(before).tolist(), env.position(after).tolist()
    ([[2.0, 2.0], [2.0, 2.0]], [[2.0, 2.0], [2.0, 3.0]])
    >>> (before != after)[:, 2:].any(1)
    array([ True, False])
    """

    time_limit = 200

    def __init__(
        self, *, rooms: int = 3, room_size: int = 5, noise: bool = True, channels: int | None = 10
    ) -> None:
        for name, value, least in (
            ("rooms", rooms, 2),
            ("room_size", room_size, 1),
            ("channels", channels, 2),
        ):
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be at least {least}; got {value}.")
        self.noise, self.channels = noise, channels
        self.free = _floor_plan(rooms, room_size)
        self.side = len(self.free)
        self.next_cell = _neighbours(self.free)
        middle = (room_size + 1) // 2
        far = (rooms - 1) * (room_size + 1) + middle
        self.start_cell, self.goal_cell = middle * (self.side + 1), far * (self.side + 1)
        first = np.zeros_like(self.free)
        first[1 : room_size + 1, 1 : room_size + 1] = True
        self.sees_screen = first.ravel()
        self.pictures = _pictures(channels or 1)
        self.observation_space = spaces.Box(0, 1, (2 + _SCREEN**2,), np.float32)
        self.action_space = spaces.Discrete(_PRESS + 1)

    def start(self, random: Words) -> State:
        n = len(random)
        cell = np.full(n, self.start_cell)
        return {"random": random, "cell": cell, "screen": np.tile(self.pictures[0], (n, 1))}

    def advance(self, state: State, action: NDArray[np.int64]) -> Advanced:
        cell, screen, random = state["cell"], state["screen"], state["random"]
        if self.noise:
            pressed = np.flatnonzero((action == _PRESS) & self.sees_screen[cell])
            screen, random = screen.copy(), random.copy()
            screen[pressed], random[pressed] = self._next_pictures(random[pressed])
        cell = self.next_cell[cell, action]
        terminated = cell == self.goal_cell
        after = {"random": random, "cell": cell, "screen": screen}
        return Advanced(after, terminated.astype(np.float64), terminated)

    def observe(self, state: State) -> NDArray[Any]:
        cell = state["cell"]
        observation = np.empty((len(cell), 2 + _SCREEN**2), dtype=np.float32)
        observation[:, 0], observation[:, 1] = np.divmod(cell, self.side)
        observation[:, :2] /= self.side - 1
        np.multiply(state["screen"], self.sees_screen[cell, None], out=observation[:, 2:])
        return observation

    def position(self, observation: Any) -> NDArray[np.float64]:
        """Row and column of each observation, ``(..., 2)``."""
        return np.rint(np.asarray(observation, dtype=np.float64)[..., :2] * (self.side - 1))

    def visit_map(self) -> VisitMap:
        return VisitMap([-0.5] * 2, [self.side - 0.5] * 2, [self.side] * 2, reachable=self.free)

    def frames(self, state: State) -> NDArray[np.uint8]:
        cells = np.where(self.free[..., None], _FLOOR, _WALL).astype(np.uint8)
        cells.reshape(-1, 3)[self.goal_cell] = _GOAL
        cells = np.tile(cells, (len(state["cell"]), 1, 1, 1))
        cells.reshape(len(cells), -1, 3)[np.arange(len(cells)), state["cell"]] = _AGENT
        pictures = painted(cells, _SQUARE)
        screen = (255 * state["screen"]).astype(np.uint8).reshape(-1, _SCREEN, _SCREEN, 1)
        left = self.start_cell % self.side * _SQUARE  # on the wall above the start
        pictures[:, :_SQUARE, left : left + _SQUARE] = painted(screen, _SQUARE // _SCREEN)
        return pictures

    def _next_pictures(self, random: Words) -> tuple[NDArray[np.float32], Words]:
        if self.channels is None:
            screen, random = draw(random, _SCREEN**2)
            return screen.astype(np.float32), random
        channel, random = draw(random, 1)
        return self.pictures[(channel[:, 0] * self.channels).astype(np.int64)], random


def _floor_plan(rooms: int, room_size: int) -> NDArray[np.bool_]:
    """Which cells are free: rooms inside walls, with a door in the middle of each wall between two."""
    pitch = room_size + 1
    free = np.zeros((rooms * pitch + 1, rooms * pitch + 1), dtype=np.bool_)
    for top in range(1, len(free), pitch):
        for left in range(1, len(free), pitch):
            free[top : top + room_size, left : left + room_size] = True
    middles = np.arange(rooms) * pitch + pitch // 2
    for wall in range(pitch, len(free) - 1, pitch):
        free[wall, middles] = free[middles, wall] = True
    return free


def _neighbours(free: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The cell that each action leads to from each, ``(cells, actions)``: walls are not entered."""
    side = len(free)
    cells = np.arange(side * side)
    to = np.tile(cells[:, None], (1, _PRESS + 1))
    for action, (down, right) in enumerate(_MOVES):
        there = (cells + down * side + right) % len(cells)  # the outer wall keeps all from wrapping around
        to[:, action] = np.where(free.ravel()[there], there, cells)
    return to


def _pictures(count: int) -> NDArray[np.float32]:
    """The same pictures of black and white for all, no two alike while there are fewer than 2**16."""
    numbers = np.random.default_rng(0).permutation(2 ** (_SCREEN**2))[np.arange(count) % 2 ** (_SCREEN**2)]
    return ((numbers[:, None] >> np.arange(_SCREEN**2)) & 1).astype(np.float32)


class NoisyTVMazeEnv(NumpyEnv):
    """One `NoisyTVMaze`; what `gymnasium.make` builds."""

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(NoisyTVMaze(**options), render_mode=render_mode)


class NoisyTVMazeVectorEnv(NumpyVectorEnv):
    """Many of `NoisyTVMaze`; what `gymnasium.make_vec` builds. ``options`` are split between both."""

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        own, rest = self.split_options(options)
        super().__init__(NoisyTVMaze(**rest), num_envs, **own)

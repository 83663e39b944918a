"""A point in a maze: continuous moves, walls, and a goal that lies far behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from athena_core.environments import Advanced, State, VisitMap, Words, draw, painted
from athena_hrl._goal_dynamics import GoalDynamics, GoalEnv, GoalVectorEnv
from athena_hrl._grid import AGENT, FLOOR, GOAL, WALL, free_cells

LAYOUTS = {
    "u": ("#####", "#S  #", "### #", "#G  #", "#####"),
    "four-rooms": (
        "###########",
        "#    #    #",
        "# S       #",
        "#    #    #",
        "#    #    #",
        "## ##### ##",
        "#    #    #",
        "#    #    #",
        "#       G #",
        "#    #    #",
        "###########",
    ),
}
_SKIN = np.float32(1e-3)  # the nearest that a point comes to a wall: more than rounding moves it
_PIXELS = 32  # of a cell
Reals = NDArray[np.float32]


class PointMaze(GoalDynamics):
    r"""A point that moves by at most ``speed`` along each axis in a step, among walls.

    .. math:: x_{t+1} = x_t + \text{speed} \cdot a_t, \quad a_t \in [-1, 1]^2

    First the first axis, then the second; what would enter a wall stops before it. The maze is made of square
    cells of side 1; a point is :math:`(x, y)`, to the right and down from the upper left corner. In "u" the
    goal lies two cells below the start, and the way to it is six cells long: whoever goes towards the goal
    comes to a wall.

    Rewards: "sparse" is -1, and 0 within ``radius`` of the goal; "dense" is minus the distance to the goal as
    the crow flies, walls or none. Coming within ``radius`` terminates.

    Observations are a Dict of ``observation``, ``achieved_goal`` and ``desired_goal``, points ``(2,)`` of
    float32.

    Args:
        layout: "u", "four-rooms", or lines of "#" for walls, " ", one "S" where episodes start and one "G" at
            the far goal.
        reward: "sparse" or "dense".
        goal: "far" is the middle of "G"; "random" draws a point of the free cells for each episode.
        start: "fixed" is the middle of "S"; "random" draws a point of the free cells for each episode. No
            episode starts within ``radius`` of its goal.
        speed: in cells, at most 1: no step jumps over a wall.
        radius: in cells.

    Attributes:
        start_point, far_goal: the middles of "S" and "G", ``(2,)``.

    Raises ValueError for other names, a speed outside (0, 1], a radius outside (0, 0.5], or a wrong layout.
    Source: in the manner of the U-shaped mazes of Duan et al. 2016, arXiv:1604.06778, and of Nachum et al.
    2018, arXiv:1805.08296. Departs from them: a point without mass takes the place of the robot, and the
    sizes are chosen here.

    >>> from athena_core.environments import NumpyVectorEnv
    >>> env = NumpyVectorEnv(PointMaze(), 1)
    >>> env.reset(seed=0)[0]["observation"]
    array([[1.5, 1.5]], dtype=float32)
    >>> for _ in range(10):
    ...     observation, reward, *_ = env.step(np.array([[1.0, 1.0]]))
    >>> observation["observation"].round(2), reward
    (array([[2.5, 2. ]], dtype=float32), array([-1.]))
    """

    time_limit = 200

    def __init__(
        self,
        *,
        layout: str | Sequence[str] = "u",
        reward: Literal["sparse", "dense"] = "sparse",
        goal: Literal["far", "random"] = "far",
        start: Literal["fixed", "random"] = "fixed",
        speed: float = 0.1,
        radius: float = 0.3,
    ) -> None:
        for name, value, allowed in (
            ("reward", reward, ("sparse", "dense")),
            ("goal", goal, ("far", "random")),
            ("start", start, ("fixed", "random")),
        ):
            if value not in allowed:
                raise ValueError(f'`{name}` must be "{allowed[0]}" or "{allowed[1]}"; got {value!r}.')
        if not 0 < speed <= 1:
            raise ValueError(f"`speed` must lie in (0, 1], or steps jump over walls; got {speed}.")
        if not 0 < radius <= 0.5:
            raise ValueError(f"`radius` must lie in (0, 0.5], half a cell; got {radius}.")
        self.reward, self.goal, self.start_at = reward, goal, start
        self.speed, self.radius = np.float32(speed), np.float32(radius)
        lines = _lines(layout)
        self.free = free_cells(lines, marks="SG")
        self.start_point, self.far_goal = _mark(lines, "S"), _mark(lines, "G")
        self._cells = np.argwhere(self.free)[:, ::-1].astype(np.float32)  # x, y of their corners
        height, width = self.free.shape
        box = spaces.Box(np.zeros(2, np.float32), np.array([width, height], np.float32), dtype=np.float32)
        names = "observation", "achieved_goal", "desired_goal"
        self.observation_space = spaces.Dict(dict.fromkeys(names, box))
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def start(self, random: Words) -> State:
        n, random = len(random), random.copy()
        point, goal = np.tile(self.start_point, (n, 1)), np.tile(self.far_goal, (n, 1))
        if self.start_at == "random":
            self._draw_points(random, point, np.arange(n))
        if self.goal == "random":
            self._draw_points(random, goal, np.arange(n))
        again = goal if self.goal == "random" else point
        while len(near := np.flatnonzero(self.goal_reached(point, goal))):
            self._draw_points(random, again, near)
        return {"random": random, "point": point, "goal": goal}

    def advance(self, state: State, action: Reals) -> Advanced:
        point = state["point"].copy()
        for axis in (0, 1):
            self._move(point, axis, self.speed * action[:, axis])
        reward, reached = self.goal_reward(point, state["goal"]), self.goal_reached(point, state["goal"])
        return Advanced({**state, "point": point}, reward, reached)

    def goal_reward(self, achieved_goal: NDArray[Any], desired_goal: NDArray[Any]) -> NDArray[np.float64]:
        if self.reward == "dense":
            return -_distance(achieved_goal, desired_goal).astype(np.float64)
        return self.goal_reached(achieved_goal, desired_goal).astype(np.float64) - 1

    def goal_reached(self, achieved_goal: NDArray[Any], desired_goal: NDArray[Any]) -> NDArray[np.bool_]:
        return _distance(achieved_goal, desired_goal) <= self.radius

    def observe(self, state: State) -> dict[str, Reals]:
        point, goal = state["point"], state["goal"]
        return {"observation": point.copy(), "achieved_goal": point.copy(), "desired_goal": goal.copy()}

    def position(self, observation: Any) -> NDArray[np.float64]:
        """The point :math:`(y, x)` of each observation, ``(..., 2)``: row and column, as of a matrix."""
        return np.asarray(observation["observation"], dtype=np.float64)[..., ::-1]

    def visit_map(self) -> VisitMap:
        bins = [4 * size for size in self.free.shape]
        reachable = self.free.repeat(4, 0).repeat(4, 1)
        return VisitMap([0, 0], self.free.shape, bins, reachable=reachable)

    def frames(self, state: State) -> NDArray[np.uint8]:
        floor = np.where(self.free[None, ..., None], FLOOR, WALL).astype(np.uint8)
        pictures = painted(np.tile(floor, (len(state["point"]), 1, 1, 1)), _PIXELS)
        rows, columns = ((np.arange(size) + 0.5) / _PIXELS for size in pictures.shape[1:3])
        for name, radius, colour in (("goal", self.radius, GOAL), ("point", 0.12, AGENT)):
            x, y = state[name].T[..., None, None]
            pictures[(columns - x) ** 2 + (rows[:, None] - y) ** 2 <= radius**2] = colour
        return pictures

    def _move(self, point: Reals, axis: int, by: Reals) -> None:
        """Move points along an axis, in place, up to the wall of the cell that they are in or come to."""
        column, row = point.astype(np.int64).T
        ahead = np.sign(by).astype(np.int64)
        open_ahead = self.free[row, column + ahead] if axis == 0 else self.free[row + ahead, column]
        now = point[:, axis]
        wall = np.floor(now) + (by > 0)
        # A point that came closer by the other axis is not pushed back.
        last = np.where(by > 0, np.maximum(wall - _SKIN, now), np.minimum(wall + _SKIN, now))
        # A whole cell, rounded up, would end in the one after the next.
        there = np.where(by > 0, np.minimum(now + by, np.nextafter(wall + 1, np.float32(0))), now + by)
        kept = np.where(by > 0, np.minimum(there, last), np.maximum(there, last))
        point[:, axis] = np.where(open_ahead, there, kept)

    def _draw_points(self, random: Words, points: Reals, rows: NDArray[np.int64]) -> None:
        """Draw points of the free cells, each as likely but for a skin at the edges, for rows, in place."""
        drawn, random[rows] = draw(random[rows], 3)
        corner = self._cells[(drawn[:, 0] * len(self._cells)).astype(np.int64)]
        points[rows] = corner + _SKIN + (1 - 2 * _SKIN) * drawn[:, 1:]


def _distance(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    return np.sqrt(((one - other) ** 2).sum(-1))


def _lines(layout: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(layout, str) and layout not in LAYOUTS:
        raise ValueError(f"`layout` must be one of {', '.join(LAYOUTS)}, or lines; got {layout!r}.")
    return LAYOUTS[layout] if isinstance(layout, str) else tuple(layout)


def _mark(lines: Sequence[str], mark: str) -> Reals:
    places = [(line.index(mark), row) for row, line in enumerate(lines) if mark in line]
    if sum(line.count(mark) for line in lines) != 1:
        raise ValueError(f"`layout` must have one '{mark}'; got {sum(line.count(mark) for line in lines)}.")
    return np.array(places[0], dtype=np.float32) + np.float32(0.5)


class PointMazeEnv(GoalEnv):
    """One `PointMaze`; what `gymnasium.make` builds."""

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(PointMaze(**options), render_mode=render_mode)


class PointMazeVectorEnv(GoalVectorEnv):
    """Many of `PointMaze`; what `gymnasium.make_vec` builds. ``options`` are split between both."""

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        own, rest = self.split_options(options)
        super().__init__(PointMaze(**rest), num_envs, **own)

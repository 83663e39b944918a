"""Four rooms: the grid world on which options were first tried, with a goal that may move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

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
from athena_hrl._grid import free_cells, grid_frames, neighbours, way_to
from athena_hrl._value_iteration import FiniteMDP

SlipTo = Literal["others", "adjacent"]
Goal = int | tuple[int, int]
_LAYOUT = (
    "#############",
    "#     #     #",
    "#     #     #",
    "#           #",
    "#     #     #",
    "#     #     #",
    "## ####     #",
    "#     ### ###",
    "#     #     #",
    "#     #     #",
    "#           #",
    "#     #     #",
    "#############",
)
_HALLWAYS = (3, 6), (7, 9), (10, 6), (6, 2)  # clockwise from the one at the top
_EAST = 62  # the state of the hallway (7, 9)


class FourRooms(Dynamics):
    r"""An agent in four rooms, joined by four hallways: 104 free cells in 13 by 13.

    Actions are up, down, left and right. A move into a wall leaves the agent where it is. With probability
    ``slip`` the action fails:

    - ``slip_to="others"``: one of the other three directions is taken instead, each with ``slip / 3``; so in
      Sutton, Precup and Singh 1999, with ``slip=1/3``.
    - ``slip_to="adjacent"``: the agent comes to one of the free cells beside it, each as likely; so in Bacon,
      Harb and Precup 2017, with ``slip=1/3``.

    Reaching the goal gives 1 and terminates; all else gives 0. An episode begins in any cell but the goal. A
    state is the number of the free cell, row by row.

    Args:
        slip: the chance that an action fails.
        slip_to: where it then leads.
        goal: a state, or row and column; None draws one for each episode.

    Attributes:
        cells: row and column of each state, ``(104, 2)``.
        rooms: the room of each state, ``(104,)``: 0 to 3, clockwise from the upper left; -1 in hallways.
        hallways: their states, at the top, right, bottom and left: room ``k`` has ``hallways[k - 1]`` and
            ``hallways[k]``, clockwise.
        next_state: where each move leads, ``(104, 4)``.

    Raises ValueError for a chance outside [0, 1], another ``slip_to``, or a goal that is no free cell.
    Source: Sutton, Precup, Singh 1999, "Between MDPs and semi-MDPs", Artificial Intelligence 112, section 3;
    Bacon et al. 2017, arXiv:1609.05140, section "Experiments": the goal is the east hallway, and moves to the
    lower right room. Departs from it: no.

    >>> from athena_core.environments import NumpyVectorEnv
    >>> rooms = FourRooms(slip=0)
    >>> rooms.hallways, rooms.goal, rooms.cells[rooms.goal].tolist()
    ((25, 62, 88, 51), 62, [7, 9])
    >>> env = NumpyVectorEnv(rooms, 3)
    >>> state, _ = env.reset(seed=0)
    >>> after, reward, *_ = env.step(rooms.way_to(rooms.goal)[state])
    >>> bool((after == rooms.next_state[state, rooms.way_to(62)[state]]).all()), reward.tolist()
    (True, [0.0, 0.0, 0.0])
    """

    time_limit = 1000

    def __init__(self, *, slip: float = 1 / 3, slip_to: SlipTo = "others", goal: Goal | None = _EAST) -> None:
        if not 0 <= slip <= 1:
            raise ValueError(f"`slip` must lie in [0, 1]; got {slip}.")
        if slip_to not in ("others", "adjacent"):
            raise ValueError(f'`slip_to` must be "others" or "adjacent"; got {slip_to!r}.')
        self.slip, self.slip_to = slip, slip_to
        self.free = free_cells(_LAYOUT)
        self.cells = np.argwhere(self.free)
        self.next_state = neighbours(self.free)
        self.hallways = tuple(self.state_of(place) for place in _HALLWAYS)
        self.rooms = _rooms(self.cells, self.hallways)
        self._slipped, self._ways = self._slips()
        self.goal = None if goal is None else self.state_of(goal)
        self.observation_space = spaces.Discrete(len(self.cells))
        self.action_space = spaces.Discrete(4)

    def state_of(self, place: Goal | NDArray[np.int64]) -> int:
        """The state of a free cell ``(row, column)``, or the state itself. Raises ValueError for a wall."""
        given, found = np.asarray(place), np.zeros(0, dtype=np.int64)
        if given.dtype.kind in "iu" and given.shape == (2,):
            found = np.flatnonzero((self.cells == given).all(1))
        elif given.dtype.kind in "iu" and given.shape == () and 0 <= given < len(self.cells):
            found = given[None]
        if not len(found):
            raise ValueError(
                f"`goal` must be one of the {len(self.cells)} states, or row and column of a free cell; got "
                f"{place}."
            )
        return int(found[0])

    def way_to(self, state: int) -> NDArray[np.int64]:
        """The action of a shortest way from each state to one, ``(104,)``; 0 in the state itself."""
        return way_to(self.next_state, state)

    def model(self, goal: Goal | None = None) -> FiniteMDP:
        """The exact model for a goal, that of the environment if left out: what `value_iteration` needs.

        Reaching the goal ends the episode, so that ``transition`` has no way into it. Raises ValueError if
        there is no goal.
        """
        chosen = self.goal if goal is None else self.state_of(goal)
        if chosen is None:
            raise ValueError("`goal` must be given where each episode draws one; got None. Name a state.")
        states = len(self.cells)
        one = np.eye(states)
        transition = (1 - self.slip) * one[self.next_state]
        for way in range(self._slipped.shape[2]):
            share = self.slip * (way < self._ways) / self._ways
            transition += share[..., None] * one[self._slipped[:, :, way]]
        reward = transition[:, :, chosen].copy()
        transition[:, :, chosen] = 0
        start = np.full(states, 1 / (states - 1))
        start[chosen] = 0
        return FiniteMDP(transition, reward, start)

    def start(self, random: Words, goal: NDArray[np.int64] | None = None) -> State:
        """States at the start of an episode; with goals ``(N,)`` of one's own, -1 for that of the rules."""
        drawn, random = draw(random, 2)
        count = len(self.cells)
        own = np.full(len(random), -1 if self.goal is None else self.goal)
        if goal is not None:
            own = np.where(goal < 0, own, goal)
        own = np.where(own < 0, (drawn[:, 0] * count).astype(np.int64), own)
        cell = (drawn[:, 1] * (count - 1)).astype(np.int64)
        return {"random": random, "cell": cell + (cell >= own), "goal": own}

    def advance(self, state: State, action: NDArray[np.int64]) -> Advanced:
        drawn, random = draw(state["random"], 1)
        cell, chance = state["cell"], drawn[:, 0]
        after = self.next_state[cell, action]
        if self.slip:
            ways = self._ways[cell, action]
            way = np.minimum((chance / self.slip * ways).astype(np.int64), ways - 1)
            after = np.where(chance < self.slip, self._slipped[cell, action, way], after)
        reached = after == state["goal"]
        return Advanced(
            {"random": random, "cell": after, "goal": state["goal"]}, reached.astype(np.float64), reached
        )

    def observe(self, state: State) -> NDArray[np.int64]:
        return state["cell"].copy()

    def position(self, observation: Any) -> NDArray[np.float64]:
        """Row and column of each state, ``(..., 2)``."""
        return self.cells[np.asarray(observation)].astype(np.float64)

    def visit_map(self) -> VisitMap:
        return VisitMap([-0.5] * 2, [12.5] * 2, [13] * 2, reachable=self.free)

    def frames(self, state: State) -> NDArray[np.uint8]:
        return grid_frames(self.free, state["cell"], state["goal"], pixels=16)

    def _slips(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where failing actions lead, ``(S, 4, ways)``, and in how many ways, ``(S, 4)``."""
        to, states = self.next_state, np.arange(len(self.cells))
        if self.slip_to == "others":
            others = np.array([[move for move in range(4) if move != action] for action in range(4)])
            return to[:, others], np.full((len(to), 4), 3)
        moved = to != states[:, None]
        first = np.argsort(~moved, axis=1, kind="stable")  # of each cell, the moves that lead away
        beside = np.take_along_axis(to, first, 1)
        return np.tile(beside[:, None], (1, 4, 1)), np.tile(moved.sum(1)[:, None], (1, 4))


def _rooms(cells: NDArray[np.int64], hallways: Sequence[int]) -> NDArray[np.int64]:
    row, column = cells.T
    rooms = np.where(column < 6, np.where(row < 6, 0, 3), np.where(row < 7, 1, 2))
    rooms[list(hallways)] = -1
    return rooms


class FourRoomsEnv(NumpyEnv):
    """One `FourRooms`; what `gymnasium.make` builds.

    >>> env = FourRoomsEnv(goal=(7, 9))
    >>> env.set_goal((9, 9))
    >>> env.dynamics.goal
    80
    """

    dynamics: FourRooms

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(FourRooms(**options), render_mode=render_mode)

    def set_goal(self, goal: Goal) -> None:
        """Move the goal, also of the episode under way; from outside of wrappers, ``env.unwrapped.set_goal``.

        Raises ValueError for what is no free cell.
        """
        self.dynamics.goal = self.dynamics.state_of(goal)
        if self._state is not None:
            self._state = {**self._state, "goal": np.array([self.dynamics.goal])}


class FourRoomsVectorEnv(NumpyVectorEnv):
    """Many of `FourRooms`; what `gymnasium.make_vec` builds. ``options`` are split between both.

    Args:
        num_envs: rows.
        goals: a goal for each row, a state or row and column; all have that of the rules if left out.

    Raises ValueError for goals that are no free cells, or not one a row.

    >>> env = FourRoomsVectorEnv(3, goals=[62, 70, (3, 6)])
    >>> _ = env.reset(seed=0)
    >>> env.set_goal(25, rows=[0, 1])
    >>> env.goals.tolist()
    [25, 25, 25]
    """

    dynamics: FourRooms

    def __init__(
        self, num_envs: int = 1, *, goals: list[Goal] | NDArray[np.int64] | None = None, **options: Any
    ) -> None:
        own, rest = self.split_options(options)
        super().__init__(FourRooms(**rest), num_envs, **own)
        self._goals = np.full(num_envs, -1)  # of each row; -1 is that of the rules
        if goals is not None:
            self.set_goal(goals)

    @property
    def goals(self) -> NDArray[np.int64]:
        """The goals of the episodes under way, ``(N,)``."""
        return self._started()["goal"].copy()

    def set_goal(self, goal: Goal | list[Goal] | NDArray[np.int64], *, rows: ArrayLike | None = None) -> None:
        """Move the goal of all rows or of some, named or by a mask, also in the episodes under way.

        Args:
            goal: a state, or row and column as a tuple; or a list of them, one a row.
            rows: numbers of rows, or booleans; all if left out.

        Raises ValueError for goals that are no free cells, or not one a row.
        """
        chosen = np.arange(self.num_envs)[slice(None) if rows is None else np.asarray(rows)]
        if isinstance(goal, list) or (isinstance(goal, np.ndarray) and goal.ndim):
            states = [self.dynamics.state_of(one) for one in goal]
        else:
            states = [self.dynamics.state_of(goal)] * len(chosen)
        if len(states) != len(chosen):
            raise ValueError(f"`goal` must be one, or one for each of {len(chosen)} rows; got {len(states)}.")
        self._goals[chosen] = states
        if self._state is not None:
            self._state["goal"][chosen] = states

    def start_rows(self, random: Words, rows: NDArray[np.intp]) -> State:
        return self.dynamics.start(random, self._goals[rows])

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "goals": self._goals.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._goals = np.asarray(state["goals"]).copy()

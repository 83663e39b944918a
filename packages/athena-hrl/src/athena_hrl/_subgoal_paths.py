"""What each row did under its subgoal so far: the manager's transitions in the making."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Rows = NDArray[np.bool_]


class SubgoalPaths:
    r"""Paths of ``N`` rows under their subgoals, at most ``c`` steps each.

    A path is over after ``c`` steps or where its episode ended, by either; then it is shorter than ``c`` and
    ``mask`` says by how much.

    Args:
        num_rows: :math:`N`.
        length: :math:`c`.
        state_dim, goal_dim, subgoal_dim, action_dim: widths.

    >>> paths = SubgoalPaths(1, 3, state_dim=1, goal_dim=0, subgoal_dim=1, action_dim=1)
    >>> one = np.ones((1, 1))
    >>> paths.begin(np.array([0]), subgoal=one, goal=np.zeros((1, 0)))
    >>> rows = np.array([True])
    >>> for reward in (1.0, 2.0):
    ...     paths.extend(rows, state=one, action=one, reward=np.array([reward]))
    >>> over = paths.close(rows, ended=rows)
    >>> paths.taken(over)["reward"], paths.taken(over)["mask"]
    (array([3.]), array([[ True,  True, False]]))
    """

    def __init__(
        self,
        num_rows: int,
        length: int,
        *,
        state_dim: int,
        goal_dim: int,
        subgoal_dim: int,
        action_dim: int,
    ) -> None:
        self.length = length
        self.age = np.zeros(num_rows, dtype=np.int64)  # steps of the path under way; 0 is none
        self._closed = self.age.copy()  # steps of paths that are over
        self.arrays = {
            "goal": np.zeros((num_rows, goal_dim), dtype=np.float32),
            "subgoal": np.zeros((num_rows, subgoal_dim), dtype=np.float32),  # as it was set
            "states": np.zeros((num_rows, length, state_dim), dtype=np.float32),
            "actions": np.zeros((num_rows, length, action_dim), dtype=np.float32),
            "reward": np.zeros(num_rows),  # their sum
        }

    def begin(self, rows: NDArray[np.int64], *, subgoal: Array, goal: Array) -> None:
        """Set new subgoals, one a row that is named."""
        self.arrays["subgoal"][rows], self.arrays["goal"][rows] = subgoal, goal
        self.arrays["reward"][rows] = 0

    def extend(self, rows: Rows, *, state: Array, action: Array, reward: NDArray[np.float64]) -> None:
        """One step of the rows of a mask; the arrays are of all rows."""
        named = np.flatnonzero(rows)
        self.arrays["states"][named, self.age[named]] = state[named]
        self.arrays["actions"][named, self.age[named]] = action[named]
        self.arrays["reward"][named] += reward[named]
        self.age[named] += 1

    def close(self, rows: Rows, *, ended: Rows) -> NDArray[np.int64]:
        """The rows of a mask whose paths are over; each needs a new subgoal."""
        over = np.flatnonzero(rows & (ended | (self.age == self.length)))
        self._closed[over], self.age[over] = self.age[over], 0
        return over

    def taken(self, over: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The paths of rows that were just closed, with ``mask`` ``(n, c)`` of the steps they have."""
        mask = np.arange(self.length) < self._closed[over, None]
        return {**{name: array[over] for name, array in self.arrays.items()}, "mask": mask}

    def state_dict(self) -> dict[str, Any]:
        return {"age": self.age.copy(), **{name: array.copy() for name, array in self.arrays.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for paths of other shapes."""
        for name, array in {"age": self.age, **self.arrays}.items():
            if np.shape(state[name]) != array.shape:
                raise ValueError(
                    f"`state` must hold `{name}` of the shape {array.shape}; got {np.shape(state[name])}."
                )
            array[...] = np.asarray(state[name])

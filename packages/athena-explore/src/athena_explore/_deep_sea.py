"""DeepSea: a single path of N right steps to the treasure, each of which costs."""

from __future__ import annotations

from typing import Any, Literal

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
    painted,
)

Observation = Literal["one-hot", "index"]
_MOVE_COST = 0.01
_AIR, _WATER, _TREASURE, _DIVER = (235, 235, 235), (120, 170, 220), (230, 180, 40), (200, 40, 40)


class DeepSea(Dynamics):
    r"""A diver in ``size`` by ``size`` cells, who sinks a row a step and goes left or right.

    Going right costs :math:`0.01 / N`. Going right from the last column earns 1; only the diver who always
    went right is there, at the last step. All else is 0, so that the best return is 0.99, and each reward on
    the way says not to go there. An episode terminates after exactly :math:`N` steps. An agent that acts at
    random finds the treasure once in :math:`2^N` episodes.

    Args:
        size: :math:`N`, 10 to 50 in the paper.
        mapping_seed: of the cells in which action 0 goes right and 1 left; None is none of them.
        observation: "one-hot" is float32 ``(size * size,)``, zeros after the last step; "index" is the number
            of the cell, row by row, ``size * size`` after the last step.

    Raises ValueError for a size below 1 or an unknown observation.
    Source: Osband et al. 2019, arXiv:1908.03568, the experiment "deep sea"; first in Osband et al. 2018,
    arXiv:1806.03335. Departs from it: the deterministic form alone; one-hot observations are flat.

    >>> from athena_core.environments import NumpyVectorEnv
    >>> env = NumpyVectorEnv(DeepSea(size=2, observation="index"), 2)
    >>> env.reset()[0]
    array([0, 0])
    >>> env.step(np.array([0, 1]))[:3]
    (array([2, 3]), array([ 0.   , -0.005]), array([False, False]))
    >>> env.step(np.array([1, 1]))[:3]
    (array([4, 4]), array([-0.005,  0.995]), array([ True,  True]))
    """

    def __init__(
        self, *, size: int = 10, mapping_seed: int | None = None, observation: Observation = "one-hot"
    ) -> None:
        if size < 1:
            raise ValueError(f"`size` must be at least 1; got {size}.")
        if observation not in ("one-hot", "index"):
            raise ValueError(f'`observation` must be "one-hot" or "index"; got {observation!r}.')
        self.size, self.observation = size, observation
        self.right_action = np.ones((size, size), dtype=np.int64)
        if mapping_seed is not None:
            self.right_action = np.random.default_rng(mapping_seed).integers(2, size=(size, size))
        if observation == "index":
            self.observation_space = spaces.Discrete(size * size + 1)
        else:
            self.observation_space = spaces.Box(0, 1, (size * size,), np.float32)
        self.action_space = spaces.Discrete(2)

    def start(self, random: Words) -> State:
        zeros = np.zeros(len(random), dtype=np.int64)
        return {"random": random, "row": zeros, "column": zeros.copy()}

    def advance(self, state: State, action: NDArray[np.int64]) -> Advanced:
        last = self.size - 1
        row, column = np.minimum(state["row"], last), state["column"]
        right = action == self.right_action[row, column]
        reward = (right & (column == last)) - right * (_MOVE_COST / self.size)
        after = {
            "random": state["random"],
            "row": row + 1,
            "column": np.clip(column + 2 * right - 1, 0, last),
        }
        return Advanced(after, reward, row == last)

    def observe(self, state: State) -> NDArray[Any]:
        cell = self._cell(state)
        if self.observation == "index":
            return cell
        observation = np.zeros((len(cell), self.size * self.size), dtype=np.float32)
        under_way = np.flatnonzero(state["row"] < self.size)
        observation[under_way, cell[under_way]] = 1
        return observation

    def position(self, observation: Any) -> NDArray[np.float64]:
        """Row and column of each observation, ``(..., 2)``; NaN after the last step."""
        cell = np.asarray(observation)
        if self.observation == "one-hot":
            cell = np.where(cell.any(-1), cell.argmax(-1), self.size * self.size)
        points = np.stack(np.divmod(cell, self.size), -1).astype(np.float64)
        points[cell == self.size * self.size] = np.nan
        return points

    def visit_map(self) -> VisitMap:
        reachable = np.tri(self.size, dtype=np.bool_)
        return VisitMap([-0.5] * 2, [self.size - 0.5] * 2, [self.size] * 2, reachable=reachable)

    def frames(self, state: State) -> NDArray[np.uint8]:
        n, size = len(state["row"]), self.size
        cells = np.where(np.tri(size, dtype=np.bool_)[..., None], _WATER, _AIR).astype(np.uint8)
        cells[-1, -1] = _TREASURE
        cells = np.tile(cells, (n, 1, 1, 1))
        under_way = np.flatnonzero(state["row"] < size)
        cells[under_way, state["row"][under_way], state["column"][under_way]] = _DIVER
        return painted(cells, 16)

    def _cell(self, state: State) -> NDArray[np.int64]:
        cell = state["row"] * self.size + state["column"]
        return np.minimum(cell, self.size * self.size)


class DeepSeaEnv(NumpyEnv):
    """One `DeepSea`; what `gymnasium.make` builds."""

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(DeepSea(**options), render_mode=render_mode)


class DeepSeaVectorEnv(NumpyVectorEnv):
    """Many of `DeepSea`; what `gymnasium.make_vec` builds. ``options`` are split between both."""

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        own, rest = self.split_options(options)
        super().__init__(DeepSea(**rest), num_envs, **own)

"""A line of cells with slips: small enough to solve by hand, random enough to tell rows apart."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from athena_core.environments import Advanced, Dynamics, NumpyEnv, NumpyVectorEnv, State, Words, draw
from athena_hrl import FiniteMDP, Option, primitives

LEFT, RIGHT = 0, 1


class Walk(Dynamics):
    """Cells 0 to ``cells - 1``; arriving in the last ends the episode. Each cell has a reward of its own."""

    def __init__(self, cells: int = 8, *, slip: float = 0.2) -> None:
        self.cells, self.slip = cells, slip
        self.observation_space, self.action_space = spaces.Discrete(cells), spaces.Discrete(2)
        self.reward = np.sin(np.arange(cells) * 2.0)

    def start(self, random: Words) -> State:
        numbers, random = draw(random, 1)
        return {"random": random, "cell": (numbers[:, 0] * (self.cells - 1)).astype(np.int64)}

    def advance(self, state: State, action: NDArray[np.int64]) -> Advanced:
        numbers, random = draw(state["random"], 1)
        action = np.where(numbers[:, 0] < self.slip, 1 - action, action)
        cell = np.clip(state["cell"] + 2 * action - 1, 0, self.cells - 1)
        return Advanced({"random": random, "cell": cell}, self.reward[cell], cell == self.cells - 1)

    def observe(self, state: State) -> NDArray[Any]:
        return state["cell"].copy()

    def model(self) -> FiniteMDP:
        """What it is, exactly: arriving in the last cell is the mass that lacks."""
        transition, reward = np.zeros((self.cells, 2, self.cells)), np.zeros((self.cells, 2))
        for cell in range(self.cells):
            for action in (LEFT, RIGHT):
                for moved, chance in ((action, 1 - self.slip), (1 - action, self.slip)):
                    after = min(max(cell + 2 * moved - 1, 0), self.cells - 1)
                    reward[cell, action] += chance * self.reward[after]
                    if after < self.cells - 1:
                        transition[cell, action, after] += chance
        start = np.full(self.cells, 1 / (self.cells - 1))
        start[-1] = 0
        return FiniteMDP(transition, reward, start)


def walk(cells: int = 8, *, slip: float = 0.2, limit: int | None = None) -> gym.Env[Any, Any]:
    env: gym.Env[Any, Any] = NumpyEnv(Walk(cells, slip=slip))
    return env if limit is None else gym.wrappers.TimeLimit(env, limit)


def walks(
    count: int, cells: int = 8, *, slip: float = 0.2, limit: int | None = None, mode: str = "NextStep"
) -> NumpyVectorEnv:
    return NumpyVectorEnv(Walk(cells, slip=slip), count, max_episode_steps=limit, autoreset_mode=mode)


def run_options(cells: int = 8) -> list[Option]:
    """To either end, from where there is a way to go, and to the middle; and both primitives."""
    place = np.arange(cells)
    right = Option(policy=np.full(cells, RIGHT), termination=place >= cells - 2, initiation=place < cells - 2)
    left = Option(policy=np.full(cells, LEFT), termination=place == 0, initiation=place > 0)
    middle = Option(policy=(place < cells // 2).astype(np.int64), termination=place == cells // 2)
    return [right, left, middle, *primitives(walk(cells))]


def drawing_options(cells: int = 8) -> list[Option]:
    """As `run_options`, but the first policies and terminations draw."""
    right, left, *others = run_options(cells)
    mostly = np.tile([0.3, 0.7], (cells, 1))
    right = Option(policy=mostly, termination=np.maximum(right.termination, 0.1), initiation=right.initiation)  # pyright: ignore[reportArgumentType, reportCallIssue]
    left = Option(
        policy=left.policy, termination=np.maximum(left.termination, 0.3), initiation=left.initiation
    )  # pyright: ignore[reportArgumentType, reportCallIssue]
    return [right, left, *others]


def as_functions(options: list[Option]) -> list[Option]:
    """The same options, with functions in place of tables."""

    def function(table: Any) -> Any:
        return None if table is None else lambda state: table[state]

    return [
        Option(
            policy=function(option.policy),
            termination=function(option.termination),
            initiation=function(option.initiation),
        )
        for option in options
    ]

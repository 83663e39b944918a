"""Rules of small environments, which several tests run."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from athena_core.environments import Advanced, Dynamics, VisitMap, draw, painted


class Staircase(Dynamics):
    """Ends after exactly ``size`` steps; 1 is for the one who always went right. Nothing is random."""

    def __init__(self, size: int = 10, *, one_hot: bool = False) -> None:
        self.size, self.one_hot = size, one_hot
        count = (size + 1) ** 2
        self.observation_space = spaces.Box(0, 1, (count,), np.float32) if one_hot else spaces.Discrete(count)
        self.action_space = spaces.Discrete(2)

    def start(self, random: Any) -> Any:
        zeros = np.zeros(len(random), dtype=np.int64)
        return {"random": random, "step": zeros, "right": zeros.copy()}

    def advance(self, state: Any, action: Any) -> Advanced:
        after = {**state, "step": state["step"] + 1, "right": state["right"] + action}
        reward = ((after["right"] == self.size) & (after["step"] == self.size)).astype(float)
        return Advanced(after, reward, after["step"] >= self.size)

    def observe(self, state: Any) -> Any:
        cell = np.minimum(state["step"] * (self.size + 1) + state["right"], (self.size + 1) ** 2 - 1)
        return np.eye((self.size + 1) ** 2, dtype=np.float32)[cell] if self.one_hot else cell

    def position(self, observation: Any) -> Any:
        cell = np.asarray(observation).argmax(-1) if self.one_hot else np.asarray(observation)
        return np.stack(np.divmod(cell, self.size + 1), -1).astype(float)

    def visit_map(self) -> VisitMap:
        return VisitMap([-0.5] * 2, [self.size + 0.5] * 2, [self.size + 1] * 2)

    def frames(self, state: Any) -> Any:
        cells = np.zeros((len(state["step"]), self.size + 1, self.size + 1, 3), dtype=np.uint8)
        cells[np.arange(len(cells)), state["step"], state["right"]] = 255
        return painted(cells, 4)


class Noise(Dynamics):
    """Fresh numbers in each step, which ends by chance, and a limit of time. It has no pictures."""

    observation_space = spaces.Box(0, 1, (3,), np.float64)
    action_space = spaces.Discrete(5)
    time_limit = 20

    def __init__(self, *, ends: float = 0.05) -> None:
        self.ends = ends

    def start(self, random: Any) -> Any:
        values, random = draw(random, 3)
        return {"random": random, "values": values}

    def advance(self, state: Any, action: Any) -> Advanced:
        drawn, random = draw(state["random"], 4)
        values = np.where(action[:, None] == 0, state["values"], drawn[:, :3])
        return Advanced({"random": random, "values": values}, values.sum(1), drawn[:, 3] < self.ends)

    def observe(self, state: Any) -> Any:
        return state["values"].copy()


class Reach(Dynamics):
    """A point on a plane goes to a goal: actions of a Box, observations in a dictionary."""

    observation_space = spaces.Dict(
        {
            "place": spaces.Box(-10, 10, (2,), np.float32),
            "near": spaces.Discrete(2),
            "goal": spaces.Box(-1, 1, (2,), np.float64),
        }
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    time_limit = 12

    def start(self, random: Any) -> Any:
        drawn, random = draw(random, 4)
        return {"random": random, "place": 2 * drawn[:, :2] - 1, "goal": 2 * drawn[:, 2:] - 1}

    def advance(self, state: Any, action: Any) -> Advanced:
        place = np.clip(state["place"] + action, -10, 10)
        far = np.linalg.norm(place - state["goal"], axis=1)
        return Advanced({**state, "place": place}, -far, far < 0.5)

    def observe(self, state: Any) -> Any:
        place, goal = state["place"], state["goal"]
        near = (np.linalg.norm(place - goal, axis=1) < 1).astype(np.int64)
        return {"place": place.astype(np.float32), "near": near, "goal": goal.copy()}

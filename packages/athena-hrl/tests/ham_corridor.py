"""A corridor whose steps slip, and machines in it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from athena_core.environments import Advanced, Dynamics, NumpyEnv, draw
from athena_hrl import GraphMachine, act, call, choose

CELLS = 6


class Corridor(Dynamics):
    """Cells 0 to 5; left and right slip with a probability; 5 ends. Each arrival has a reward of its own."""

    def __init__(self, *, slip: float = 0.0) -> None:
        self.slip = slip
        self.observation_space, self.action_space = spaces.Discrete(CELLS), spaces.Discrete(2)

    def start(self, random: Any) -> Any:
        return {"random": random, "cell": np.full(len(random), 2)}

    def advance(self, state: Any, action: Any) -> Advanced:
        numbers, random = draw(state["random"], 1)
        step = np.where(numbers[:, 0] < self.slip, 1 - action, action) * 2 - 1
        cell = np.clip(state["cell"] + step, 0, CELLS - 1)
        return Advanced({"random": random, "cell": cell}, arrival_reward(cell), cell == CELLS - 1)

    def observe(self, state: Any) -> Any:
        return state["cell"].copy()


def arrival_reward(cell: Any) -> Any:
    return np.where(cell == CELLS - 1, 10.0, -1.0 - cell / 8)


class PlainCorridor(gym.Env):
    """The same for one environment, in a fifth of the time, with random numbers of its own."""

    def __init__(self, *, slip: float) -> None:
        self.slip = slip
        self.observation_space, self.action_space = spaces.Discrete(CELLS), spaces.Discrete(2)
        self.rewards = arrival_reward(np.arange(CELLS)).tolist()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.cell = 2
        return self.cell, {}

    def step(self, action: Any) -> Any:
        step = 2 * action - 1
        if self.slip and self.np_random.random() < self.slip:
            step = -step
        self.cell = min(max(self.cell + step, 0), CELLS - 1)
        return self.cell, self.rewards[self.cell], self.cell == CELLS - 1, False, {}


def corridor(*, slip: float = 0.0, limit: int | None = None) -> Any:
    env = PlainCorridor(slip=slip)
    return env if limit is None else TimeLimit(env, limit)


def numpy_corridor(*, slip: float, limit: int) -> Any:
    return TimeLimit(NumpyEnv(Corridor(slip=slip)), limit)


def flat(machine):
    """One choice for each action."""
    action = yield choose("action", range(2))
    yield act(action)


def walk(machine, way):
    """Two steps one way, and back one if that led to a wall; whether it did."""
    yield act(way)
    yield act(way)
    if machine.state == 0:
        yield act(1)
        return True
    return False


def root(machine):
    """Choose a way, walk it; after a wall, choose how often to repeat a step right."""
    way = yield choose("way", range(2))
    wall = yield call(walk, way)
    if wall:
        times = yield choose("times", (0, 1, 3))
        for _ in range(times):
            yield act(1)


WALK = {
    "first": {"kind": "action", "action": {"parameter": "way"}, "next": "second"},
    "second": {
        "kind": "action",
        "action": {"parameter": "way"},
        "next": {"on": {"feature": None}, "cases": [[0, "back"]], "otherwise": "done"},
    },
    "back": {"kind": "action", "action": 1, "next": "wall"},
    "wall": {"kind": "stop", "result": True},
    "done": {"kind": "stop", "result": False},
}


def graph_root() -> GraphMachine:
    """The machine `root` as data."""
    after = {"on": {"result": None}, "cases": [[True, "times"]], "otherwise": "end"}
    options = [[0, "end"], [1, "one"], [3, "three"]]
    states = {
        "way": {"kind": "choice", "label": "way", "options": [[0, "left"], [1, "right"]]},
        "left": {"kind": "call", "machine": "walk", "args": [0], "next": after},
        "right": {"kind": "call", "machine": "walk", "args": [1], "next": after},
        "times": {"kind": "choice", "label": "times", "options": options},
        "three": {"kind": "action", "action": 1, "next": "two"},
        "two": {"kind": "action", "action": 1, "next": "one"},
        "one": {"kind": "action", "action": 1, "next": "end"},
        "end": {"kind": "stop"},
    }
    inner = GraphMachine("walk", WALK, start="first", parameters=["way"])
    return GraphMachine("root", states, start="way", machines={"walk": inner})

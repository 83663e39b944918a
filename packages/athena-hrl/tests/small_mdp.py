"""Small processes with a model, and the exact solution of a task graph in them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from athena_hrl import FiniteMDP, TaskGraph, value_iteration


class ModelEnv(gym.Env[int, int]):
    """An environment that plays a model; what a row of the transition lacks to 1 ends the episode."""

    def __init__(self, model: FiniteMDP) -> None:
        self.model = model
        self.observation_space = spaces.Discrete(model.reward.shape[0])
        self.action_space = spaces.Discrete(model.reward.shape[1])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = int(self.np_random.choice(len(self.model.start), p=self.model.start))
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        onward = self.model.transition[self.state, action]
        reward = float(self.model.reward[self.state, action])
        drawn = int(np.searchsorted(np.cumsum(onward), self.np_random.random(), side="right"))
        terminated = drawn == len(onward)
        self.state = self.state if terminated else drawn
        return self.state, reward, terminated, False, {}


def corridor(*, slip: float = 0.0, length: int = 7) -> FiniteMDP:
    """Cells in a row; left, right, and "open", which ends the episode in the last cell for 10.

    Right may slip and stay. A step costs 1, opening elsewhere 3. An episode begins anywhere.
    """
    transition, reward = np.zeros((length, 3, length)), np.full((length, 3), -1.0)
    for cell in range(length):
        transition[cell, 0, max(cell - 1, 0)] += 1
        transition[cell, 1, min(cell + 1, length - 1)] += 1 - slip
        transition[cell, 1, cell] += slip
        if cell < length - 1:
            transition[cell, 2, cell] = 1
            reward[cell, 2] = -3.0
    reward[length - 1, 2] = 10.0
    return FiniteMDP(transition, reward, np.full(length, 1 / length))


def recursive_optimum(graph: TaskGraph, model: FiniteMDP, gamma: float) -> dict[str, np.ndarray]:
    """Values of the recursively optimal policy, task by task: solved exactly, from the leaves up."""
    n_states = graph.n_states
    rewards = [model.reward[:, action] for action in range(graph.n_actions)]
    onwards = [gamma * model.transition[:, action] for action in range(graph.n_actions)]
    values = {}
    for task in graph.tasks:  # children come first
        ended = np.array(task.ended)
        nodes = np.array([child.nodes for child in task.children]).T
        reward, onward = np.zeros(nodes.shape), np.zeros((*nodes.shape, n_states))
        for state, child in zip(*np.nonzero(nodes >= 0), strict=True):
            reward[state, child] = rewards[nodes[state, child]][state]
            onward[state, child] = onwards[nodes[state, child]][state]
        own = reward + onward @ (ended * np.array(task.pseudo_rewards))
        q = value_iteration(onward * ~ended, own, available=nodes >= 0)
        greedy = np.where(ended, 0, q.argmax(1))
        at = np.arange(n_states), greedy
        inside = np.eye(n_states) - onward[at] * ~ended
        rewards.append(np.linalg.solve(inside, reward[at]))
        onwards.append(np.linalg.solve(inside, onward[at] * ended))
        values[task.name] = np.where(ended, 0.0, rewards[-1])
    return values

"""A small environment whose every observation is known, in the spaces that Stable-Baselines3 takes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.spaces import Space
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.vec_env import DummyVecEnv

from athena_explore import Bonus, Scored, Transition

OBSERVATIONS: dict[str, Space] = {
    "vector": spaces.Box(-100, 100, (2,), np.float32),
    "float64": spaces.Box(-100, 100, (2,), np.float64),
    "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "index": spaces.Discrete(100),
    "dict": spaces.Dict({"place": spaces.Box(-100, 100, (2,), np.float32), "step": spaces.Discrete(100)}),
}
ACTIONS: dict[str, Space] = {
    "discrete": spaces.Discrete(3),
    "box": spaces.Box(-0.1, 0.1, (2,), np.float32),
    "multi": spaces.MultiDiscrete([2, 3]),
}


class Corridor(gym.Env[Any, Any]):
    """Observes the numbers of the episode and of the step; ends after 3 steps, in odd episodes by truncation.

    The reward is random and depends on the first part of the action a little.
    """

    def __init__(self, observation: str = "vector", action: str = "discrete", start: int = 0) -> None:
        self.kind = observation
        self.observation_space, self.action_space = OBSERVATIONS[observation], ACTIONS[action]
        self.episode = start - 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.step_number = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        ended, cut = self.step_number == 3, self.episode % 2 == 1
        reward = self.np_random.normal() + 0.1 * float(np.ravel(action)[0])
        return self._observation(), reward, ended and not cut, ended and cut, {}

    def action_masks(self) -> np.ndarray:
        return np.array([True, self.step_number != 1, True])

    def _observation(self) -> Any:
        place = np.array([self.episode, self.step_number], np.float32)
        match self.kind:
            case "image":
                return np.full((36, 36, 1), 10 * self.step_number, np.uint8) + np.uint8(self.episode % 50)
            case "index":
                return (4 * self.episode + self.step_number) % 100
            case "dict":
                return {"place": place, "step": self.step_number}
        return place.astype(self.observation_space.dtype)


def corridors(count: int = 2, **options: Any) -> DummyVecEnv:
    """Corridors which begin at different episodes, so that they end in different ways."""
    return DummyVecEnv([lambda i=i: Corridor(start=i, **options) for i in range(count)])


class Kept(KVWriter):
    """Logs, kept."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.rows.append(dict(key_values))

    def close(self) -> None:
        pass


class Recording(Bonus):
    """Keeps what it is given, and gives rewards of its own choice; counts what it has seen."""

    def __init__(self, observation_space: Space, action_space: Space, **options: Any) -> None:
        super().__init__(observation_space, action_space, **options)
        self.seen: list[Transition] = []
        self.cleared = 0
        self.memory["samples"] = torch.zeros(())

    def rewards(self, transition: Transition) -> torch.Tensor:
        return torch.zeros(transition.shape)

    def _score(self, transition: Transition) -> Scored:
        return Scored(self.rewards(transition))

    def _learn(self, samples: Transition) -> dict[str, float]:
        self.memory["samples"] = self.memory["samples"] + len(samples.terminated)
        return {"samples": float(self.memory["samples"])}

    def update(self, transition: Transition) -> dict[str, float]:
        self.seen.append(transition)
        return super().update(transition)

    def clear_episodes(self) -> None:
        self.cleared += 1
        super().clear_episodes()


class Constant(Recording):
    """1 in every step."""

    def rewards(self, transition: Transition) -> torch.Tensor:
        return torch.ones(transition.shape)


class LastStep(Recording):
    """A reward of 1 in the last step of each rollout alone."""

    def rewards(self, transition: Transition) -> torch.Tensor:
        rewards = torch.zeros(transition.shape)
        rewards[-1] = 1
        return rewards


class Episodes(Recording):
    """Rewards that depend on the number of the episode."""

    def rewards(self, transition: Transition) -> torch.Tensor:
        return transition.next_obs[..., 0] + 0.1 * transition.next_obs[..., 1]

"""A point on a line that counts its steps: every transition tells which it was."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class LineEnv(gym.Env[Any, Any]):
    """Episode ``k`` ends after ``lengths[k % n]`` steps: by termination if that is negative, else cut.

    States are (place, step, episode); the reward of step ``i`` is ``i``. ``record`` has every transition as
    (state, action, reward, next state, terminated, truncated).
    """

    def __init__(self, lengths: list[int], *, goals: bool = False) -> None:
        self.lengths, self.goals, self.record, self.episode = lengths, goals, [], -1
        box = spaces.Box(-100, 100, (3,), np.float32)
        place = spaces.Box(-100, 100, (1,), np.float32)
        both = {"observation": box, "achieved_goal": place, "desired_goal": place}
        self.observation_space = spaces.Dict(both) if goals else box
        self.action_space = spaces.Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.episode += 1
        self.place, self.count = 0.0, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        before, length = self._state(), self.lengths[self.episode % len(self.lengths)]
        self.place += float(action[0])
        self.count += 1
        over = self.count == abs(length)
        terminated, truncated = over and length < 0, over and length > 0
        self.record.append((before, float(action[0]), self.count, self._state(), terminated, truncated))
        return self._observation(), float(self.count), terminated, truncated, {}

    def _state(self) -> np.ndarray:
        return np.array([self.place, self.count, self.episode], dtype=np.float32)

    def _observation(self) -> Any:
        if not self.goals:
            return self._state()
        goal = np.array([self.episode], dtype=np.float32)
        return {"observation": self._state(), "achieved_goal": self._state()[:1], "desired_goal": goal}

"""An environment in a module of its own, which worker processes can import."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Told(gym.Env):
    """Observations of two parts, infos of several forms, and both ends at once now and then."""

    action_space = spaces.Discrete(2)

    def __init__(self, pairs: bool = False) -> None:
        self.pairs = pairs
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = spaces.Dict({"a": box, "b": spaces.Discrete(9)}) if pairs else box
        self.factor = 1.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t, self.limit = 0, int(self.np_random.integers(2, 7))
        return self._obs(), {"begun": self.limit, **(options or {})}

    def step(self, action: Any) -> Any:
        self.t += 1
        info = {"t": self.t, "inside": {"action": int(action)}}
        if self.t % 2:
            info["odd"] = True
        over = self.t >= self.limit
        return (
            self._obs(),
            self.factor * (0.1 + action),
            over and self.limit % 2 == 0,
            over and self.limit > 3,
            info,
        )

    def _obs(self) -> Any:
        drawn = self.np_random.standard_normal(2).astype(np.float32)
        return {"a": drawn, "b": self.t} if self.pairs else drawn

    def scaled(self, by: float, *, plus: float = 0.0) -> float:
        return self.factor * by + plus

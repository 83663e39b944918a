"""Points that are to reach the place of their task: the cheapest vector of several tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Env, spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

PLACES = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
STEPS = 10


class PointTask(Env):
    """Observations: position and code; an episode terminates at the place, and is cut after some steps."""

    def __init__(self, task: int, n_tasks: int, *, dtype: Any = np.float32, coded: bool = True) -> None:
        self.task_name, self.place = f"place-{task}", PLACES[task]
        self.code = np.eye(n_tasks)[task] if coded else np.zeros(0)
        self.dtype = dtype
        self.observation_space = spaces.Box(-9, 9, (2 + len(self.code),), dtype)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.time = self.np_random.uniform(-1, 1, 2), 0
        return self.observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.position = np.clip(self.position + 0.5 * action, -2, 2)
        self.time += 1
        distance = float(np.linalg.norm(self.position - self.place))
        return self.observation(), -distance, distance < 0.4, self.time >= STEPS, {}

    def observation(self) -> np.ndarray:
        return np.concatenate([self.position, self.code]).astype(self.dtype)


def point_tasks(*tasks: int, n_tasks: int | None = None, **options: Any) -> SyncVectorEnv:
    """One row for each of these tasks."""
    count = n_tasks or len(set(tasks))
    makers = [lambda task=task: PointTask(task, count, **options) for task in tasks]
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)

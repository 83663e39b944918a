"""A vector environment whose rewards and ends are written down."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv


class ScriptedVectorEnv(VectorEnv[Any, Any, Any]):
    """Rows count their steps: observation ``[step, row]``, reward ``10 row + step``, ends after ``lengths``.

    Args:
        lengths: of the episodes of each row.
        truncated: whether rows are cut rather than terminate.
        mode: NEXT_STEP, SAME_STEP or DISABLED.
        actions: the space of one action.
    """

    def __init__(
        self,
        lengths: list[int],
        *,
        truncated: bool = False,
        mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        actions: spaces.Space[Any] | None = None,
    ) -> None:
        self.num_envs, self.lengths, self.cut, self.mode = len(lengths), np.array(lengths), truncated, mode
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space = spaces.Box(-100, 100, (2,), np.float32)
        self.single_action_space = actions or spaces.Discrete(3)
        self.time = np.zeros(self.num_envs, dtype=np.int64)
        self.over = np.zeros(self.num_envs, dtype=np.bool_)
        self.actions: list[Any] = []
        self._shared = np.zeros((self.num_envs, 2), dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        self.time[:], self.over[:] = 0, False
        return self._observation(), {}

    def step(self, actions):
        self.actions.append(np.array(actions))
        starts = self.over.copy()
        self.time = np.where(starts, 0, self.time + 1)
        reward = np.where(starts, 0.0, 10.0 * np.arange(self.num_envs) + self.time)
        done = ~starts & (self.time >= self.lengths)
        info = {}
        if self.mode is AutoresetMode.SAME_STEP:
            if done.any():
                final = np.full(self.num_envs, None, dtype=object)
                for row in np.flatnonzero(done):
                    final[row] = self._observation()[row].copy()
                info = {"final_obs": final, "_final_obs": done.copy()}
            self.time[done] = 0
        else:
            self.over = done
        none = np.zeros_like(done)
        return self._observation(), reward, *((none, done) if self.cut else (done, none)), info

    def _observation(self):
        """The same array at each step: whoever keeps it must copy it."""
        self._shared[:] = np.stack([self.time, np.arange(self.num_envs)], 1)
        return self._shared

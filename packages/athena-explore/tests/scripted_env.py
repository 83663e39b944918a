"""A vector environment whose episodes are written down beforehand, in each autoreset mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from athena_explore import StepReader, Transition, stack_transitions
from athena_explore._bonus_laws import ACTIONS, VECTOR

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
MODES = [NEXT_STEP, SAME_STEP, DISABLED]


class Scripted(VectorEnv):
    """Row ``n`` walks through the episodes of ``script`` (T, N), whatever the actions are.

    ``wrap`` makes an observation of each vector: a dictionary, a tuple. ``layout`` says how ``final_obs``
    comes: "objects" as of SyncVectorEnv, "batched" as arrays of all rows.
    """

    def __init__(
        self,
        script: Transition,
        mode: AutoresetMode,
        *,
        space: spaces.Space = VECTOR,
        wrap: Any = lambda vector: vector,
        layout: str = "objects",
    ) -> None:
        self.script, self.mode, self.wrap, self.layout = script, mode, wrap, layout
        self.num_envs = script.shape[1]
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = space, ACTIONS
        self.observation_space = batch_space(space, self.num_envs)
        self.action_space = batch_space(ACTIONS, self.num_envs)
        self._place = np.zeros(self.num_envs, int)
        self._ended = np.zeros(self.num_envs, bool)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._ended[(options or {}).pop("reset_mask", np.ones(self.num_envs, bool))] = False
        return self._first(), {}

    def step(self, actions: Any) -> Any:
        assert not (self.mode is DISABLED and self._ended.any())
        live, rows = ~self._ended, np.arange(self.num_envs)
        place = np.minimum(self._place, len(self.script.terminated) - 1)
        terminated, truncated = (
            getattr(self.script, name).numpy()[place, rows] & live for name in ("terminated", "truncated")
        )
        reached = self.script.next_obs.numpy()[place, rows]
        self._place += live
        self._ended = terminated | truncated
        first = self._first_vectors()
        ended, info = self._ended, {}
        shown = np.where(live[:, None], reached, first)
        if self.mode is SAME_STEP and ended.any():
            shown = np.where(ended[:, None], first, reached)
            info = {"final_obs": self._final(reached, ended), "_final_obs": ended}
            self._ended = np.zeros_like(ended)
        return self.wrap(shown), live.astype(float), terminated, truncated, info

    def _final(self, reached: np.ndarray, ended: np.ndarray) -> Any:
        if self.layout == "batched":
            return self.wrap(reached)
        final = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended):
            final[row] = self.wrap(reached[row])
        return final

    def _first_vectors(self) -> np.ndarray:
        place = np.minimum(self._place, len(self.script.terminated) - 1)
        return self.script.obs.numpy()[place, np.arange(self.num_envs)]

    def _first(self) -> Any:
        return self.wrap(self._first_vectors())


def actions_of(env: Any) -> np.ndarray:
    """The actions that the script has for the next step, of rows that will take one."""
    inner = env.unwrapped
    place = np.minimum(inner._place, len(inner.script.terminated) - 1)
    return inner.script.action.numpy()[place, np.arange(inner.num_envs)]


def restart(env: Any, done: np.ndarray) -> Any:
    """What a user does with DISABLED; observations of all rows."""
    return env.reset(options={"reset_mask": done.copy()})[0]


def read_script(env: Scripted, steps: int) -> Transition:
    """Steps of an environment as a `StepReader` tells them."""
    reader, rows = StepReader(env), []
    reader.reset(env.reset()[0])
    for _ in range(steps):
        action = actions_of(env)
        rows.append(reader.read(action, env.step(action)))
        if env.mode is DISABLED and rows[-1].done.any():
            done = rows[-1].done[0].numpy()
            reader.reset(restart(env, done), reset_mask=done)
    return stack_transitions(rows)


def valid_rows(transition: Transition, row: int) -> tuple[torch.Tensor, ...]:
    """Observations, actions, next observations and ends of one environment, without what only resets."""
    names = ("obs", "action", "next_obs", "terminated", "truncated")
    keep = transition.valid[:, row]
    return tuple(getattr(transition, name)[:, row][keep] for name in names)

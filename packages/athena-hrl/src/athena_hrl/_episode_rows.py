"""One environment or many, as rows whose ended episodes are told from their successors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch.utils._pytree import tree_map

from athena_core.environments import autoreset_mode, final_observations

Array = NDArray[np.float32]


class Observed(NamedTuple):
    """States and goals of ``N`` rows; goals have width 0 where the environment has none.

    >>> Observed(np.zeros((2, 4)), np.zeros((2, 0))).goal.shape
    (2, 0)
    """

    state: Array  # (N, S)
    goal: Array  # (N, D)


class RowStep(NamedTuple):
    """What a step did: ``reached`` is where it led, even where the row has begun again since.

    >>> RowStep(Observed(np.zeros((1, 4)), np.zeros((1, 0))), *[np.zeros(1)] * 4).valid
    array([0.])
    """

    reached: Observed
    reward: NDArray[np.float64]  # (N,)
    terminated: NDArray[np.bool_]  # (N,)
    truncated: NDArray[np.bool_]  # (N,)
    valid: NDArray[np.bool_]  # (N,): False where the step only began a row again (NEXT_STEP)


class EpisodeRows:
    """An environment or a vector environment, in any mode of starting again, as rows of arrays.

    Observations are a Box, or a Dict with ``observation`` and ``desired_goal``. `observed` is what the next
    action is for.

    Args:
        env: one environment, or a vector of them in NEXT_STEP, SAME_STEP or DISABLED.

    Raises ValueError for another space of observations.

    >>> rows = EpisodeRows(gym.make("Pendulum-v1"))
    >>> rows.start(seed=0)
    >>> step = rows.step(np.zeros((1, 1), dtype=np.float32))
    >>> rows.state_dim, rows.goal_dim, step.reached.state.shape, step.valid
    (3, 0, (1, 3), array([ True]))
    """

    observed: Observed

    def __init__(self, env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> None:
        self.given = env
        vector = env if isinstance(env, VectorEnv) else _vector_of(env)
        self.env, self.mode, self.num_envs = vector, autoreset_mode(vector), vector.num_envs
        self.space, self.action_space = vector.single_observation_space, vector.single_action_space
        self.state_space, goal_space = _parts(self.space)
        self.state_dim = spaces.flatdim(self.state_space)
        self.goal_dim = 0 if goal_space is None else spaces.flatdim(goal_space)
        self.goal_space = goal_space
        self.begun = False
        self._waiting = np.zeros(self.num_envs, dtype=np.bool_)

    def start(self, *, seed: int | None = None) -> None:
        """Begin all rows."""
        observation, _ = self.env.reset(seed=seed)
        self.observed, self.begun = self.read(observation), True
        self._waiting[:] = False

    def step(self, actions: NDArray[Any]) -> RowStep:
        """One step of every row with actions of the environment's own range ``(N, *shape)``."""
        valid = ~self._waiting
        observation, reward, terminated, truncated, info = self.env.step(actions)
        reached, ended = self.read(observation), terminated | truncated
        self.observed = reached
        if self.mode is AutoresetMode.NEXT_STEP:
            self._waiting = ended.copy()
        elif ended.any():
            if self.mode is AutoresetMode.SAME_STEP:
                reached = self._with_final(reached, info, ended)
            else:
                self.observed = self.read(self.env.reset(options={"reset_mask": ended.copy()})[0])
        return RowStep(reached, np.asarray(reward, np.float64), terminated.copy(), truncated.copy(), valid)

    def read(self, observation: Any) -> Observed:
        """States and goals of a batch of observations, as new arrays."""
        if isinstance(observation, Mapping):
            return Observed(_flat(observation["observation"]), _flat(observation["desired_goal"]))
        state = _flat(observation)
        return Observed(state, np.zeros((len(state), 0), dtype=np.float32))

    def _with_final(self, reached: Observed, info: dict[str, Any], ended: NDArray[np.bool_]) -> Observed:
        like = batch_space(self.space, 1).sample()
        last = self.read(final_observations(like, info, torch.from_numpy(ended)))
        reached = Observed(reached.state.copy(), reached.goal.copy())
        reached.state[ended], reached.goal[ended] = last
        return reached

    def state_dict(self) -> dict[str, Any] | None:
        """Where the rows are; None where the environment cannot say, or has not begun."""
        if not self.begun or not hasattr(self.given, "state_dict"):
            return None
        own: Any = self.given
        observed = {"state": self.observed.state.copy(), "goal": self.observed.goal.copy()}
        return {"env": own.state_dict(), "waiting": self._waiting.copy(), **observed}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a state; from None the next `start` begins anew."""
        self.begun = state is not None
        if state is None:
            return
        if self.env is not self.given:
            self.env.reset()  # so that Gymnasium's own wrappers know of an episode
        own: Any = self.given
        saved: Any = tree_map(
            lambda leaf: leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf, dict(state)
        )
        own.load_state_dict(saved["env"])
        self.observed = Observed(*(np.array(saved[name], dtype=np.float32) for name in ("state", "goal")))
        self._waiting = np.array(saved["waiting"])


def _vector_of(env: gym.Env[Any, Any]) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.DISABLED)


def _parts(space: spaces.Space[Any]) -> tuple[spaces.Box, spaces.Box | None]:
    if isinstance(space, spaces.Box):
        return space, None
    if isinstance(space, spaces.Dict) and {"observation", "desired_goal"} <= space.spaces.keys():
        state, goal = space["observation"], space["desired_goal"]
        if isinstance(state, spaces.Box) and isinstance(goal, spaces.Box):
            return state, goal
    raise ValueError(
        "observations must be a Box, or a Dict with Boxes `observation` and `desired_goal`; got "
        f"{space}. Wrap the environment in Gymnasium's FlattenObservation."
    )


def _flat(values: Any) -> Array:
    values = values.numpy() if isinstance(values, torch.Tensor) else values
    array = np.array(values, dtype=np.float32)
    return array.reshape(len(array), -1)

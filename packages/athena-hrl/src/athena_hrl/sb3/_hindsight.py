"""Hindsight experience replay for Stable-Baselines3's off-policy algorithms."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch.utils._pytree import tree_map

from athena_core.environments.sb3 import GymnasiumVecEnv
from athena_hrl._goal_strategy import GoalStrategy
from athena_hrl._goal_task import GoalTask, goal_function, goal_observations
from athena_hrl._hindsight_replay import HindsightReplay


class HindsightReplayBuffer(HerReplayBuffer):
    r"""`HindsightReplay` as a ``replay_buffer_class`` of DQN, SAC, TD3, DDPG, TQC and their like.

    It takes the place of Stable-Baselines3's ``HerReplayBuffer``, with the same arguments, and differs in
    what it samples: terminations of relabelled transitions are those of ``compute_terminated``, where the
    environment has it; the share of hindsight is exact in expectation; strategies may be any;
    ``compute_reward`` may be of one transition only; an episode longer than the buffer raises; tensors are
    views of one array, not contiguous. The learner bootstraps where an episode was truncated, not where it
    terminated, unless ``handle_timeout_termination`` is False: each end counts as a termination then.

    Under VecNormalize goals are relabelled as they were, and normalised then. Stable-Baselines3 has the last
    observation of an episode only normalised, and undoes that with rounding, or worse where it was clipped.

    ``save_replay_buffer`` and ``load_replay_buffer`` work as they do for all buffers of Stable-Baselines3: by
    pickle, episodes under way included; ``truncate_last_traj=False`` goes on with them. `state_dict` has the
    same as tensors and primitives.

    Args:
        buffer_size: steps of all environments together.
        observation_space, action_space, device, n_envs, optimize_memory_usage: the algorithm gives them.
        env: the algorithm gives it.
        handle_timeout_termination: bootstrap where ``info["TimeLimit.truncated"]``.
        n_sampled_goal: goals in hindsight for each real one.
        goal_selection_strategy: a component of the kind ``goal-strategy``, a `GoalStrategy`, or
            Stable-Baselines3's own enumeration.
        copy_info_dict: keep infos for ``compute_reward``, whose third argument they are.
        seed: of the sampler; None draws it from NumPy's global generator, which the algorithm's seed sets.

    Raises ValueError for ``optimize_memory_usage``, and as `HindsightReplay` does.
    Source: Andrychowicz et al. 2017, arXiv:1707.01495. Departs from it: as `HindsightReplay` does.

    >>> from stable_baselines3 import DQN
    >>> from stable_baselines3.common.envs import BitFlippingEnv
    >>> model = DQN(
    ...     "MultiInputPolicy",
    ...     BitFlippingEnv(n_bits=4, max_steps=4),
    ...     learning_starts=20,
    ...     buffer_size=200,
    ...     replay_buffer_class=HindsightReplayBuffer,
    ...     replay_buffer_kwargs={"goal_selection_strategy": "final"},
    ...     device="cpu",
    ... ).learn(60)
    >>> model.replay_buffer.sample(8).rewards.shape
    torch.Size([8, 1])
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        env: VecEnv,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_sampled_goal: int = 4,
        goal_selection_strategy: GoalSelectionStrategy | GoalStrategy | str = "future",
        copy_info_dict: bool = False,
        seed: int | None = None,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError(
                "`optimize_memory_usage` must be False with hindsight; got True. That layout loses the last "
                "observation of each episode."
            )
        goal_observations(observation_space)
        # Not the parents' own: they would allocate what is stored below once more.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.n_sampled_goal, self.copy_info_dict = n_sampled_goal, copy_info_dict
        self.her_ratio = 1 - 1 / (n_sampled_goal + 1)
        if isinstance(goal_selection_strategy, GoalSelectionStrategy):
            goal_selection_strategy = goal_selection_strategy.name.lower()
        self._discrete = [
            key for key, one in observation_space.spaces.items() if isinstance(one, spaces.Discrete)
        ]
        # A discrete action is stored as it comes, without the axis that samples have: it is faster to add.
        one = () if isinstance(action_space, spaces.Discrete) else (self.action_dim,)
        self._action_rows: tuple[int, ...] = (n_envs, *one)
        self.env = env
        self.replay = HindsightReplay(
            self._task(env),
            self.buffer_size,
            n_envs=n_envs,
            n_sampled_goal=n_sampled_goal,
            strategy=goal_selection_strategy,
            copy_info=copy_info_dict,
            seed=int(np.random.randint(2**31)) if seed is None else seed,  # noqa: NPY002  what the algorithm seeds
        )
        self.goal_selection_strategy = self.replay.strategy  # pyright: ignore[reportAttributeAccessIssue]

    def add(
        self,
        obs: dict[str, NDArray[Any]],
        next_obs: dict[str, NDArray[Any]],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        end = None
        if True in done.tolist():  # several times as fast as `done.any()`
            cut = np.array([info.get("TimeLimit.truncated", False) for info in infos], np.uint8)
            end = done * (1 + cut)  # 1 terminated, 2 truncated
        if self._discrete:
            obs, next_obs = self._shaped(obs), self._shaped(next_obs)
        if action.shape != self._action_rows:
            action = action.reshape(self._action_rows)
        self.replay.put(obs, action, reward, next_obs, end, infos=infos)
        self.pos += 1
        if self.pos == self.buffer_size:
            self.pos, self.full = 0, True

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> DictReplayBufferSamples:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Transitions as tensors, those with goals in hindsight first.

        Args:
            batch_size: of them.
            env: by which observations and rewards are normalised.

        Raises RuntimeError before the end of the first episode, and for a loaded buffer without environment.
        """
        if self.env is None:
            raise RuntimeError(
                "`sample` needs the environment, for its rewards; got none. Call `set_env(env)`."
            )
        batch = self.replay.sample(batch_size)
        obs: Any = batch.obs
        next_obs: Any = batch.next_obs
        reward = batch.reward[:, None]
        if env is not None:
            obs, next_obs = env.normalize_obs(obs), env.normalize_obs(next_obs)
            reward = env.normalize_reward(reward).astype(np.float32)
        done = batch.terminated if self.handle_timeout_termination else batch.terminated | batch.truncated
        return DictReplayBufferSamples(
            observations={key: self._tensor(part) for key, part in obs.items()},
            actions=self._tensor(batch.action.reshape(batch_size, self.action_dim)),
            next_observations={key: self._tensor(part) for key, part in next_obs.items()},
            dones=self._tensor(done[:, None].astype(np.float32)),
            rewards=self._tensor(reward),
        )

    def _tensor(self, part: NDArray[Any]) -> torch.Tensor:
        """Of a fresh array, without a copy on the CPU."""
        tensor = torch.from_numpy(part)
        return tensor if self.device.type == "cpu" else tensor.to(self.device)

    def reset(self) -> None:
        """Forget all steps."""
        super().reset()
        self.replay.clear()

    def truncate_last_trajectory(self) -> None:
        """End the episodes under way as truncated: what follows belongs to others."""
        if (self.replay.ring.written > self.replay.ring.last).any():
            warnings.warn(
                "The episodes under way when the replay buffer was saved end as truncated. To go on with "
                "them, load it by `truncate_last_traj=False`.",
                stacklevel=2,
            )
            self.replay.truncate()

    def state_dict(self) -> dict[str, Any]:
        """All that the next samples depend on, the episodes under way with it: tensors and primitives."""
        state = self.replay.state_dict()
        return tree_map(lambda leaf: torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf, state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. Raises ValueError for that of a buffer of other options."""
        self.replay.load_state_dict(state)
        steps = int(self.replay.ring.written[0])
        self.pos, self.full = steps % self.buffer_size, steps >= self.buffer_size

    def set_env(self, env: VecEnv) -> None:
        """Give a loaded buffer its environment. Raises ValueError if it has one."""
        super().set_env(env)
        self.replay.task = self._task(env)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state["replay"] = copy.copy(self.replay)
        del state["replay"].task  # it has functions of the environment, which may not be pickled
        return state

    def _task(self, env: VecEnv) -> GoalTask:
        kept = {key: _stored(space) for key, space in self.observation_space.spaces.items()}
        kind: Any = self._maybe_cast_dtype(self.action_space.dtype)
        return GoalTask(
            spaces.Dict(kept),
            spaces.Box(0, 1, self._action_rows[1:], kind),  # pyright: ignore[reportCallIssue]
            compute_reward=_function(env, "compute_reward"),
            compute_terminated=_function(env, "compute_terminated", required=False),
        )

    def _shaped(self, obs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Observations with an axis for a single number, as Stable-Baselines3 has them."""
        return {
            key: np.reshape(part, (self.n_envs, 1)) if key in self._discrete else part
            for key, part in obs.items()
        }

    # What others read of Stable-Baselines3's buffers: views (steps, environments, ...).

    @property
    def observations(self) -> dict[str, NDArray[Any]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {key: self._view(f"obs.{key}") for key in self.observation_space.spaces}

    @property
    def next_observations(self) -> dict[str, NDArray[Any]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {key: self._view(f"next_obs.{key}") for key in self.observation_space.spaces}

    @property
    def actions(self) -> NDArray[Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._view("action").reshape(self.buffer_size, self.n_envs, self.action_dim)

    @property
    def rewards(self) -> NDArray[Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._view("reward")

    @property
    def dones(self) -> NDArray[Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self._view("end") > 0).astype(np.float32)

    @property
    def timeouts(self) -> NDArray[Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self._view("end") == 2).astype(np.float32)

    def _view(self, field: str) -> NDArray[Any]:
        part = self.replay.records.fields[field]
        return part.reshape(self.buffer_size, self.n_envs, *part.shape[1:])


def _stored(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space of what is stored: Stable-Baselines3 gives a single number an axis."""
    return spaces.MultiDiscrete([int(space.n)]) if isinstance(space, spaces.Discrete) else space


def _function(env: VecEnv, name: str, *, required: bool = True) -> Any:
    """A method of the first environment: of this process itself, of another by a call."""
    inside: Any = env.unwrapped
    if isinstance(inside, GymnasiumVecEnv):
        return goal_function(inside.env, name, required=required)
    if hasattr(inside, "envs"):
        return goal_function(inside.envs[0], name, required=required)
    if env.has_attr(name):
        return lambda *given: env.env_method(name, *given, indices=[0])[0]
    if required:
        raise ValueError(f"`env` must have `{name}(achieved, desired, info)`; {env} has none. Add it.")
    return None

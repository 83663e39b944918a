"""Replay buffers of Stable-Baselines3 whose rewards are recomputed, bonus and all, where they are sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her import HerReplayBuffer
from torch import Tensor
from torch.utils._pytree import tree_map

from athena_core import to_device
from athena_explore._as_bonus import BonusChoice, as_bonus
from athena_explore._spaces import one_line, shape_of
from athena_explore._transition import Transition

Samples = TypeVar("Samples", ReplayBufferSamples, DictReplayBufferSamples)


class SampledBonus(ReplayBuffer):
    r"""What comes in front of a replay buffer's class: rewards :math:`r + \beta b`, with the bonus of today.

    `IntrinsicReplayBuffer` says what the arguments are.

    >>> IntrinsicReplayBuffer.__mro__[1:3] == (SampledBonus, ReplayBuffer)
    True
    """

    def __init__(
        self,
        *args: Any,
        bonus: BonusChoice = "rnd",
        coefficient: float = 1.0,
        learn_every: int = 128,
        bonus_options: Mapping[str, Any] | None = None,
        seed: int = 0,
        optimize_memory_usage: bool = False,
        **options: Any,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError(
                "`optimize_memory_usage` must be False with a bonus; got True. That layout loses the last "
                "observation of each episode."
            )
        if not 0 <= coefficient < float("inf"):
            raise ValueError(
                f"`coefficient` must be a finite number of at least 0; got {coefficient}. Take 0 to have no "
                "bonus."
            )
        space = args[1] if len(args) > 1 else options.get("observation_space")
        if isinstance(space, spaces.Dict) and not isinstance(self, DictReplayBuffer):
            raise ValueError(
                f"`observation_space` of {type(self).__name__} must be no dictionary; got {one_line(space)}. "
                "Take `IntrinsicDictReplayBuffer`, or `IntrinsicHerReplayBuffer` for goals."
            )
        super().__init__(*args, optimize_memory_usage=False, **options)
        if not 1 <= learn_every <= self.buffer_size:
            raise ValueError(
                f"`learn_every` must lie in [1, {self.buffer_size}], the steps that the buffer holds; got "
                f"{learn_every}."
            )
        made = as_bonus(bonus, self.observation_space, self.action_space, options=bonus_options, seed=seed)
        if made.episodic:
            raise ValueError(
                f"`bonus` must know no episodes, which samples do not tell; {type(made).__name__} does. Take "
                'another, such as "rnd", or `IntrinsicPPO`.'
            )
        self.bonus = made.to(self.device)
        self.coefficient, self.learn_every = coefficient, learn_every
        self.metrics: dict[str, float] = {}  # of the latest `learn`
        self.sampled: Tensor | None = None  # the bonus of the latest samples
        self._not_learned = 0  # steps, the latest of the buffer

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        at = self.pos
        super().add(obs, next_obs, action, reward, done, infos)
        self.bonus.advance(self._steps(np.array([at])))
        self._not_learned += 1
        if self._not_learned >= self.learn_every:
            latest = np.arange(at - self._not_learned + 1, at + 1) % self.buffer_size
            self._not_learned = 0
            self.metrics = self.bonus.learn(self._steps(latest))

    def _steps(self, rows: NDArray[np.int64]) -> Transition:
        """Stored steps as transitions ``(T, N)``."""
        done, cut = self.dones[rows] > 0, self.timeouts[rows] > 0
        return self._transition(
            _rows(self.observations, rows),
            torch.from_numpy(self.actions[rows]),
            _rows(self.next_observations, rows),
            torch.from_numpy(done & ~cut),
            torch.from_numpy(done & cut),
        )

    def _get_samples(self, batch_inds: NDArray[Any], env: VecNormalize | None = None) -> Any:
        return self._with_bonus(super()._get_samples(batch_inds), env)

    def _with_bonus(self, raw: Any, env: VecNormalize | None) -> Any:
        given = raw if env is None else self._normalized(raw, env)
        if not self.coefficient:
            return given
        ended = raw.dones[:, 0] > 0
        asked = self._transition(
            raw.observations, raw.actions, raw.next_observations, ended, torch.zeros_like(ended)
        )
        self.sampled = self.bonus.score_samples(asked).to(given.rewards)
        return given._replace(rewards=given.rewards + self.coefficient * self.sampled[:, None])

    def _normalized(self, raw: Samples, env: VecNormalize) -> Samples:
        """Samples as the learner sees them; the bonus is not among the rewards that are normalised."""

        def normal(obs: Any) -> Any:
            found: Any = env.normalize_obs(tree_map(lambda part: part.cpu().numpy(), obs))
            return tree_map(self.to_torch, found)

        return raw._replace(
            observations=normal(raw.observations),
            next_observations=normal(raw.next_observations),
            rewards=self.to_torch(env.normalize_reward(raw.rewards.cpu().numpy()).astype(np.float32)),
        )

    def _transition(
        self, obs: Any, action: Tensor, next_obs: Any, terminated: Tensor, truncated: Tensor
    ) -> Transition:
        lead = terminated.shape
        obs, next_obs = (_shaped(self.observation_space, one, lead) for one in (obs, next_obs))
        action = action.reshape(*lead, *shape_of(self.action_space))
        return Transition(obs, _unscaled(self.action_space, action), next_obs, terminated, truncated)


class IntrinsicReplayBuffer(SampledBonus, ReplayBuffer):
    r"""Stable-Baselines3's replay buffer with an intrinsic reward, for DQN, SAC, TD3 and their like,

    .. math:: r_t + \beta\, b_k(s_t, a_t, s_{t+1}),

    where :math:`b_k` is the bonus as it is when the sample is drawn: a stored one goes stale while networks
    learn and counts grow. Each step that is added is made known to the bonus at once, and learned with those
    after it every ``learn_every`` steps. :math:`s_{t+1}` is the last observation of the episode where it
    ended. With :math:`\beta = 0` samples are those of the plain buffer, bit for bit. Under VecNormalize the
    bonus sees observations as they were, up to what its clipping takes from the last of an episode, and it is
    added after rewards are normalised.

    ``coefficient`` may be changed at any time; ``metrics`` is what the bonus reported when it learned last.
    ``save_replay_buffer`` keeps the bonus with the samples, as Stable-Baselines3 keeps them: by pickle. To
    keep the bonus alone, as tensors, save ``model.replay_buffer.bonus.state_dict()``.

    Args:
        args, options: as Stable-Baselines3's; its algorithms give them.
        bonus, bonus_options, seed: the name of a component of the kind ``bonus``, a `Bonus` class, a function
            of both spaces, or a `Bonus`; options and seed for what is still to be made.
        coefficient: :math:`\beta`.
        learn_every: steps; until the first of these times a bonus with networks is 0.

    Raises ValueError for a bonus with a memory of episodes, which samples do not tell, for
    ``optimize_memory_usage``, for dictionaries of observations, and for numbers outside their range.

    >>> from stable_baselines3 import DQN
    >>> model = DQN(
    ...     "MlpPolicy",
    ...     "CartPole-v1",
    ...     buffer_size=1000,
    ...     replay_buffer_class=IntrinsicReplayBuffer,
    ...     replay_buffer_kwargs={"bonus": "rnd", "coefficient": 0.5},
    ...     device="cpu",
    ... ).learn(200)
    >>> sorted(model.replay_buffer.metrics)
    ['prediction_error']
    """


class IntrinsicDictReplayBuffer(SampledBonus, DictReplayBuffer):
    """`IntrinsicReplayBuffer` for dictionaries of observations.

    >>> space = spaces.Dict({"place": spaces.Box(-1, 1, (2,)), "key": spaces.Discrete(2)})
    >>> buffer = IntrinsicDictReplayBuffer(100, space, spaces.Discrete(2), "cpu", bonus="rnd", learn_every=1)
    >>> obs = {"place": np.ones((1, 2), np.float32), "key": np.ones(1, int)}
    >>> buffer.add(obs, obs, np.zeros(1, int), np.zeros(1), np.zeros(1, bool), [{}])
    >>> buffer.sample(5).rewards.shape
    torch.Size([5, 1])
    """


class IntrinsicHerReplayBuffer(SampledBonus, HerReplayBuffer):
    """`IntrinsicReplayBuffer` with hindsight experience replay.

    The bonus sees goals as the learner does: those of the episode when a step is added, and those that took
    their place when it is sampled. A bonus that shall not see goals needs an encoder, or a `Bonus` made for
    the purpose, that leaves them out.

    Source: Andrychowicz et al. 2017, arXiv:1707.01495. Departs from it: Stable-Baselines3's.

    >>> from stable_baselines3 import DQN
    >>> from stable_baselines3.common.envs import BitFlippingEnv
    >>> model = DQN(
    ...     "MultiInputPolicy",
    ...     BitFlippingEnv(n_bits=4, max_steps=4),
    ...     buffer_size=200,
    ...     learning_starts=20,
    ...     replay_buffer_class=IntrinsicHerReplayBuffer,
    ...     replay_buffer_kwargs={"bonus": "rnd", "learn_every": 16},
    ...     device="cpu",
    ... ).learn(60)
    >>> model.replay_buffer.sample(8).rewards.shape, model.replay_buffer.sampled.shape
    (torch.Size([8, 1]), torch.Size([8]))
    """

    def _get_real_samples(
        self, batch_indices: NDArray[Any], env_indices: NDArray[Any], env: VecNormalize | None = None
    ) -> DictReplayBufferSamples:
        return self._with_bonus(super()._get_real_samples(batch_indices, env_indices), env)

    def _get_virtual_samples(
        self, batch_indices: NDArray[Any], env_indices: NDArray[Any], env: VecNormalize | None = None
    ) -> DictReplayBufferSamples:
        real = self.sampled  # `sample` asks for them first
        samples = self._with_bonus(super()._get_virtual_samples(batch_indices, env_indices), env)
        if self.coefficient and real is not None and self.sampled is not None:
            self.sampled = torch.cat([real, self.sampled])
        return samples


def _rows(stored: Any, rows: NDArray[np.int64]) -> Any:
    if isinstance(stored, dict):
        return {key: part[rows] for key, part in stored.items()}
    return stored[rows]


def _shaped(space: spaces.Space, obs: Any, lead: torch.Size) -> Any:
    """Stored observations in the shape of their space: the buffer keeps a discrete one as a row of one."""
    if isinstance(space, spaces.Dict):
        return {key: _shaped(part, obs[key], lead) for key, part in space.spaces.items()}
    return torch.as_tensor(obs).reshape(*lead, *shape_of(space))


def _unscaled(space: spaces.Space, action: Tensor) -> Tensor:
    """Actions as the environment had them: algorithms store continuous ones in [-1, 1]."""
    if not isinstance(space, spaces.Box) or not space.is_bounded():
        return action
    low, high = (to_device(torch.as_tensor(bound), action.device) for bound in (space.low, space.high))
    return low + 0.5 * (action + 1) * (high - low)

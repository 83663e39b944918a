"""Replay buffers of Stable-Baselines3 for environments over options: a discount for each sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from athena_hrl._smdp import gamma_of


def smdp_options(env: Any) -> dict[str, Any]:
    """The arguments that DQN, SAC and TD3 need to learn in an environment over options, ``gamma`` among them.

    Args:
        env: `OptionEnv`, one that a HAM induces, or a VecEnv of such.

    Raises ValueError for an environment without the attribute ``gamma``, or a VecEnv with several.

    >>> import gymnasium as gym
    >>> from stable_baselines3 import DQN
    >>> from athena_hrl import OptionEnv, primitives
    >>> cart = gym.make("CartPole-v1")
    >>> env = OptionEnv(cart, primitives(cart), gamma=0.9)
    >>> model = DQN("MlpPolicy", env, device="cpu", buffer_size=500, **smdp_options(env)).learn(120)
    >>> model.gamma, round(float(model.replay_buffer.sample(1).discounts), 3)
    (0.9, 0.9)
    """
    found = _gammas(env)
    if None in found or len(set(found)) != 1:
        raise ValueError(
            f"`env` must be over options, with one attribute `gamma`; got {found}. Wrap it in `OptionEnv`."
        )
    space = env.observation_space
    buffer = SMDPDictReplayBuffer if isinstance(space, spaces.Dict) else SMDPReplayBuffer
    kwargs = {"gamma": found[0]}
    return {"gamma": found[0], "replay_buffer_class": buffer, "replay_buffer_kwargs": kwargs}


class SampledDiscounts(ReplayBuffer):
    """What comes in front of a replay buffer's class to keep the discount of each transition.

    `SMDPReplayBuffer` says what the arguments are.

    >>> SMDPReplayBuffer.__mro__[1:3] == (SampledDiscounts, ReplayBuffer)
    True
    """

    def __init__(self, *args: Any, gamma: float, optimize_memory_usage: bool = False, **options: Any) -> None:
        if optimize_memory_usage:
            raise ValueError(
                "`optimize_memory_usage` must be False; got True. That layout loses the last observation of "
                "each episode, by whose value a truncated one is continued."
            )
        super().__init__(*args, optimize_memory_usage=False, **options)
        self.gamma = gamma
        self.discounts = np.zeros((self.buffer_size, self.n_envs), dtype=np.float32)

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """One step of each environment. Raises ValueError for a discount that is not the buffer's."""
        self.discounts[self.pos] = [self._discount(info) for info in infos]
        super().add(obs, next_obs, action, reward, done, infos)

    def _discount(self, info: dict[str, Any]) -> float:
        if "discount" not in info or "duration" not in info:
            raise ValueError(
                '`env` must give "duration" and "discount" in its infos; got '
                f"{', '.join(map(repr, info)) or 'none'}. Wrap it in `OptionEnv`."
            )
        if not np.isclose(info["discount"], self.gamma ** info["duration"], rtol=1e-6, atol=0):
            raise ValueError(
                f"`gamma` must be that of `env`; got {self.gamma}, but {info['duration']} steps were "
                f"discounted by {info['discount']:g}. Pass `**smdp_options(env)`."
            )
        return info["discount"]

    def _sampled(self, rows: NDArray[np.int64], env: VecNormalize | None) -> dict[str, Any]:
        """The parts of samples that need no observations, and where those are."""
        columns = np.random.randint(self.n_envs, size=len(rows))  # noqa: NPY002  # as SB3 draws them
        ended = self.dones[rows, columns] * (1 - self.timeouts[rows, columns])
        rewards = self._normalize_reward(self.rewards[rows, columns, None], env)
        return {
            "actions": self.to_torch(self.actions[rows, columns]),
            "dones": self.to_torch(ended[:, None]),
            "rewards": self.to_torch(rewards),
            "discounts": self.to_torch(self.discounts[rows, columns, None]),
            "columns": columns,
        }


class SMDPReplayBuffer(SampledDiscounts, ReplayBuffer):
    r"""Stable-Baselines3's replay buffer for options, machines and all else that takes several steps at once.

    DQN, SAC and TD3 then learn towards :math:`R + \gamma^k (1 - d) V(s')`, exactly: each sample has the
    discount that the environment gave in ``info["discount"]``. A truncated episode is continued by the value
    of its last observation. With :math:`k = 1` samples are those of the plain buffer, bit for bit.

    The algorithm's own ``gamma`` plays no part in such a target. That both agree is the buffer's business: it
    is made with ``gamma``, and raises at the first transition with another. `smdp_options` passes it to both.

    None of these algorithms knows which options can start. Give them options that start everywhere, or use
    `MaskedDQN`.

    Args:
        args, options: as Stable-Baselines3's; its algorithms give them.
        gamma: of the environment and of the algorithm.

    Raises ValueError for ``optimize_memory_usage`` and, when a transition is added, for infos without
    "duration" and "discount" or with the discounts of another ``gamma``.
    Source: Bradtke and Duff 1995; Sutton, Precup, Singh 1999, section 3.2. Departs from it: no.

    >>> space, actions = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
    >>> buffer = SMDPReplayBuffer(10, space, actions, "cpu", gamma=0.5)
    >>> obs, info = np.zeros((1, 1)), {"duration": 3, "discount": 0.125}
    >>> buffer.add(obs, obs, np.zeros(1), np.ones(1), np.zeros(1), [info])
    >>> buffer.sample(1).discounts
    tensor([[0.1250]])
    """

    def _get_samples(self, batch_inds: NDArray[Any], env: VecNormalize | None = None) -> ReplayBufferSamples:
        parts = self._sampled(batch_inds, env)
        at = batch_inds, parts.pop("columns")
        stored = self.observations[at], self.next_observations[at]
        normal: list[Any] = [self._normalize_obs(one, env) for one in stored]
        now, after = map(self.to_torch, normal)
        return ReplayBufferSamples(observations=now, next_observations=after, **parts)


class SMDPDictReplayBuffer(SampledDiscounts, DictReplayBuffer):
    """`SMDPReplayBuffer` for dictionaries of observations.

    >>> space = spaces.Dict({"place": spaces.Box(-1, 1, (2,))})
    >>> buffer = SMDPDictReplayBuffer(10, space, spaces.Discrete(2), "cpu", gamma=0.5)
    >>> obs, info = {"place": np.zeros((1, 2))}, {"duration": 1, "discount": 0.5}
    >>> buffer.add(obs, obs, np.zeros(1), np.ones(1), np.zeros(1), [info])
    >>> buffer.sample(2).next_observations["place"].shape
    torch.Size([2, 2])
    """

    def _get_samples(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, batch_inds: NDArray[Any], env: VecNormalize | None = None
    ) -> DictReplayBufferSamples:
        parts = self._sampled(batch_inds, env)
        at = batch_inds, parts.pop("columns")

        def picked(stored: dict[str, NDArray[Any]]) -> Any:
            found: Any = self._normalize_obs({key: part[at] for key, part in stored.items()}, env)
            return {key: self.to_torch(part) for key, part in found.items()}

        now, after = picked(self.observations), picked(self.next_observations)
        return DictReplayBufferSamples(observations=now, next_observations=after, **parts)


def _gammas(env: Any) -> list[float | None]:
    if not isinstance(env, VecEnv):
        return [gamma_of(env)]
    return list(env.get_attr("gamma")) if env.has_attr("gamma") else [None]

"""DQN of Stable-Baselines3 that chooses, draws and maximises among the actions that are available."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.dqn.policies import MultiInputPolicy, QNetwork
from torch import Tensor

from athena_hrl._mask_in_observation import MASK


class MaskedQNetwork(QNetwork):
    """Values of actions, and the lowest number there is for those that "action_mask" leaves out.

    >>> MaskedQNetwork.__mro__[1] is QNetwork
    True
    """

    def forward(self, obs: Any) -> Tensor:
        values = super().forward(obs)
        return values.masked_fill(obs[MASK] == 0, torch.finfo(values.dtype).min)


class MaskedPolicy(MultiInputPolicy):
    """The policy of `MaskedDQN`, for dictionaries of observations with a mask.

    >>> MaskedPolicy.__mro__[1] is MultiInputPolicy
    True
    """

    def make_q_net(self) -> MaskedQNetwork:
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return MaskedQNetwork(**arguments).to(self.device)


class MaskedDQN(DQN):
    r"""Stable-Baselines3's DQN for observations with a mask, as `MaskInObservation` makes them.

    Only available actions are drawn at random, chosen as the best, or enter the maximum of the target,

    .. math:: R + \gamma^k (1 - d) \max_{o \in O(s')} Q(s', o),

    which plain DQN takes over all. Arguments are those of DQN; `smdp_options` gives those for options.

    Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning"; masks as in
    Sutton, Precup, Singh 1999, section 3.2. Departs from it: Stable-Baselines3's.

    >>> import gymnasium as gym
    >>> from athena_hrl import MaskInObservation, Option, OptionEnv, primitives
    >>> from athena_hrl.sb3 import smdp_options
    >>> lake = gym.make("FrozenLake-v1")
    >>> down = Option(policy=lambda s: 1, termination=lambda s: s > 7, initiation=lambda s: s <= 7)
    >>> env = MaskInObservation(OptionEnv(lake, [down, *primitives(lake)]))
    >>> model = MaskedDQN("MultiInputPolicy", env, buffer_size=500, device="cpu", **smdp_options(env))
    >>> model.learn(200).num_timesteps
    200
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MultiInputPolicy": MaskedPolicy}

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[NDArray[Any], Any]:
        """An available action for each observation: any with the exploration rate, else the best."""
        if not deterministic and np.random.rand() < self.exploration_rate:  # noqa: NPY002  # SB3 seeds it
            return _any_of(observation[MASK]), state
        return self.policy.predict(observation, state, episode_start, deterministic)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.num_timesteps < learning_starts:
            assert isinstance(self._last_obs, dict)
            actions = _any_of(self._last_obs[MASK])
            return actions, actions
        return super()._sample_action(learning_starts, action_noise, n_envs)


def _any_of(mask: NDArray[Any]) -> NDArray[np.int64]:
    """One of the actions of each mask, all as likely."""
    return (np.random.random_sample(mask.shape) * (mask > 0) + (mask > 0)).argmax(-1)  # noqa: NPY002

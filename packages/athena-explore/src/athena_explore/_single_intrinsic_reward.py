"""A single Gymnasium environment with an intrinsic reward at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv
from torch import Tensor
from torch.utils._pytree import tree_map

from athena_explore._as_bonus import BonusChoice
from athena_explore._each_step_bonus import EachStepBonus
from athena_explore._transition import Observation, Transition


class SingleIntrinsicReward(EachStepBonus, gym.Wrapper, RecordConstructorArgs):
    r"""An environment whose steps have the bonus, a float, in ``info["intrinsic_reward"]``.

    The reward stays as it is unless a coefficient is given; then it becomes :math:`r_t + \beta b_t`. `reset`
    begins a new episode for the bonus too. `EachStepBonus` says what ``bonus``, ``training``, ``metrics`` and
    ``coefficient`` are. An ``Autoreset`` wrapper belongs around this one.

    Args:
        env: the environment.
        bonus, coefficient, learn_every, bonus_options, seed: see `IntrinsicReward`.

    Raises TypeError for a vector environment, ValueError for numbers outside their range.

    >>> env = SingleIntrinsicReward(gym.make("CartPole-v1"), "rnd", learn_every=4)
    >>> observation, _ = env.reset(seed=0)
    >>> [env.step(1)[-1]["intrinsic_reward"] > 0 for _ in range(6)]
    [False, False, False, False, True, True]
    """

    def __init__(
        self,
        env: gym.Env,
        bonus: BonusChoice,
        *,
        coefficient: float = 0.0,
        learn_every: int = 128,
        bonus_options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if isinstance(env, VectorEnv) or not isinstance(env, gym.Env):
            raise TypeError(
                f"`env` must be a single environment; got {env}. Take `IntrinsicReward` for several."
            )
        options: dict[str, Any] = {
            "bonus": bonus,
            "coefficient": coefficient,
            "learn_every": learn_every,
            "bonus_options": bonus_options,
            "seed": seed,
        }
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, **options)  # for `env.spec`
        gym.Wrapper.__init__(self, env)
        EachStepBonus.__init__(self, env.observation_space, env.action_space, **options)
        self._obs: Observation = None
        self._under_way = True  # for a bonus that was elsewhere before

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        if self._under_way:  # after an end the bonus has forgotten the episode already
            self.start_episodes()
        self._obs, self._under_way = tree_map(_row, obs), False
        return obs, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        if self._obs is None:
            raise ValueError("`reset` must be called before `step`.")
        obs, reward, terminated, truncated, info = self.env.step(action)
        before, self._obs = self._obs, tree_map(_row, obs)
        self._under_way = not (terminated or truncated)
        ends = _row(bool(terminated)), _row(bool(truncated))
        bonus = float(self.reward_of(Transition(before, tree_map(_row, action), self._obs, *ends))[0])
        if self.coefficient:
            reward = float(reward) + self.coefficient * bonus
        return obs, reward, terminated, truncated, {**info, "intrinsic_reward": bonus}


def _row(value: Any) -> Tensor:
    return torch.from_numpy(np.array(value)[None, None])

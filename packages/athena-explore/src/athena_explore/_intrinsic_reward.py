"""Gymnasium's vector environments with an intrinsic reward at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray

from athena_explore._as_bonus import BonusChoice
from athena_explore._each_step_bonus import EachStepBonus
from athena_explore._step_reader import StepReader, VectorStep


class IntrinsicReward(EachStepBonus, VectorWrapper):
    r"""A vector environment whose steps have the bonus in ``info["intrinsic_reward"]``, of shape ``(N,)``.

    In any autoreset mode the bonus sees the observation that each action truly led to; steps that only reset
    a row have the bonus 0 and enter nothing (``info["_intrinsic_reward"]`` is False there). The reward stays
    as it is unless a coefficient is given; then it becomes :math:`r_t + \beta b_t`. An agent with two value
    heads, as in ``examples/intrinsic_reward_ppo.py``, keeps both streams apart.

    `EachStepBonus` says what ``bonus``, ``training``, ``metrics`` and ``coefficient`` are.

    Args:
        env: the vector environment.
        bonus: the name of a component of the kind ``bonus``, a `Bonus` class, a function of both spaces, or a
            `Bonus`, made for the spaces of one environment.
        coefficient: :math:`\beta`.
        learn_every: steps after which the bonus learns from them.
        bonus_options, seed: for a bonus that is still to be made.

    Raises TypeError for a single environment; ValueError for numbers outside their range, an unknown
    autoreset mode, and, where the bonus has a memory of episodes, for a ``reset_mask`` of rows under way: it
    would not know that they ended.

    >>> import gymnasium as gym
    >>> env = IntrinsicReward(gym.make_vec("CartPole-v1", 4), "rnd", learn_every=8)
    >>> observation, _ = env.reset(seed=0)
    >>> for _ in range(12):
    ...     *_, info = env.step(np.array([0, 1, 0, 1]))
    >>> info["intrinsic_reward"].shape, bool((info["intrinsic_reward"] > 0).any())
    ((4,), True)
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, NDArray[Any]],
        bonus: BonusChoice,
        *,
        coefficient: float = 0.0,
        learn_every: int = 128,
        bonus_options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(
                f"`env` must be a vector environment; got {env}. Take `SingleIntrinsicReward` for one."
            )
        VectorWrapper.__init__(self, env)
        self._reader = StepReader(env)
        EachStepBonus.__init__(
            self,
            env.single_observation_space,
            env.single_action_space,
            bonus=bonus,
            bonus_options=bonus_options,
            coefficient=coefficient,
            learn_every=learn_every,
            seed=seed,
        )

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        mask = (options or {}).get("reset_mask")  # taken now: environments take it out of `options`
        if mask is not None:
            self._check_mask(np.asarray(mask))
        obs, info = self.env.reset(seed=seed, options=options)
        ended = self._reader.ended
        if mask is None and (ended is None or not bool(ended.all())):  # it forgot what ended already
            self.start_episodes()
        self._reader.reset(obs, reset_mask=mask)
        return obs, info

    def step(self, actions: Any) -> VectorStep:
        result = obs, rewards, terminated, truncated, info = self.env.step(actions)
        transition = self._reader.read(actions, result)
        bonus = self.reward_of(transition)
        info = {**info, "intrinsic_reward": bonus, "_intrinsic_reward": transition.valid[0].cpu().numpy()}
        if self.coefficient:
            rewards = rewards + self.coefficient * bonus.astype(rewards.dtype)
        return obs, rewards, terminated, truncated, info

    def _check_mask(self, mask: NDArray[np.bool_]) -> None:
        ended = self._reader.ended
        over = np.zeros_like(mask) if ended is None else ended.cpu().numpy()
        early = np.flatnonzero(mask & ~over).tolist()
        if early and self.bonus.episodic:
            raise ValueError(
                f"`reset_mask` must name rows whose episode ended, since {type(self.bonus).__name__} "
                f"remembers episodes; got {early}. Let the environment truncate them."
            )

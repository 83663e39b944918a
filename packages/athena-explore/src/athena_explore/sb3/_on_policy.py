"""Proximal policy optimisation with an intrinsic reward: two streams, two discounts, two values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium.spaces import Space
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from athena_explore._as_bonus import BonusChoice, as_bonus
from athena_explore._bonus import Bonus
from athena_explore._coefficient import Schedule, as_coefficient
from athena_explore.sb3._policy_head import IntrinsicValue
from athena_explore.sb3._raw_observations import RawObservations
from athena_explore.sb3._recorder import RolloutRecorder
from athena_explore.sb3._rollout import with_intrinsic_returns


class IntrinsicOnPolicy(OnPolicyAlgorithm):
    """What comes in front of an on-policy algorithm of Stable-Baselines3 to give it an intrinsic reward.

    The algorithm's own ``train`` and ``collect_rollouts`` do the work: it needs a policy with a linear
    ``value_net`` and a rollout buffer with ``advantages``. See `IntrinsicPPO` for the arguments.

    >>> from stable_baselines3 import A2C
    >>> class IntrinsicA2C(IntrinsicOnPolicy, A2C):
    ...     pass
    >>> model = IntrinsicA2C("MlpPolicy", "CartPole-v1", bonus="rnd", device="cpu").learn(20)
    """

    bonus: Bonus
    intrinsic_value: IntrinsicValue

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        *,
        bonus: BonusChoice = "rnd",
        bonus_coefficient: float | Schedule = 0.5,
        bonus_options: Mapping[str, Any] | None = None,
        intrinsic_gamma: float = 0.99,
        intrinsic_gae_lambda: float = 0.95,
        intrinsic_vf_coef: float = 0.5,
        _init_setup_model: bool = True,
        **options: Any,
    ) -> None:
        try:
            self.bonus_coefficient = as_coefficient(bonus_coefficient)
        except ValueError as error:
            raise ValueError(f"`bonus_coefficient`: {error}") from error
        _check(gamma=intrinsic_gamma, gae_lambda=intrinsic_gae_lambda, vf_coef=intrinsic_vf_coef)
        super().__init__(policy, env, _init_setup_model=False, **options)  # pyright: ignore[reportArgumentType, reportCallIssue]
        self.bonus_options = dict(bonus_options or {})
        self.intrinsic_gamma, self.intrinsic_gae_lambda = intrinsic_gamma, intrinsic_gae_lambda
        self.intrinsic_vf_coef = intrinsic_vf_coef
        self._bonus_choice: BonusChoice = bonus
        self._bonus_space: Space | None = None
        self._recorder = RolloutRecorder()
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        seed = 0 if self.seed is None else self.seed
        if self.env is not None:
            self._bonus_space = RawObservations(self.env).space
        assert self._bonus_space is not None
        choice = self.__dict__.get("bonus", self._bonus_choice)  # `load(path, bonus=...)` puts one there
        if choice is None:
            raise ValueError(
                "`bonus` must be given to `load`, since the model was saved with a `Bonus` made before; got "
                "none. Make it anew for the same spaces: the file has its state."
            )
        made = as_bonus(
            choice,
            self._bonus_space,
            self.action_space,
            options=self.bonus_options,
            seed=seed,
            gamma=self.intrinsic_gamma,
        )
        self.bonus = made.to(self.device)
        self._bonus_choice = None if choice is made else choice  # pyright: ignore[reportAttributeAccessIssue]
        self.intrinsic_value = IntrinsicValue(self.policy, seed=seed, vf_coef=self.intrinsic_vf_coef)
        with_intrinsic_returns(self.rollout_buffer, self.intrinsic_value)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        *args: Any,
        **options: Any,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:  # then the environments are reset
            self.bonus.clear_episodes()
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **options)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        if isinstance(callback, list):
            callback = CallbackList(callback)
        elif not isinstance(callback, BaseCallback):
            callback = ConvertCallback(callback)
        return super()._init_callback([self._recorder, callback], progress_bar)

    def collect_rollouts(self, env: VecEnv, *args: Any, **options: Any) -> bool:
        self._recorder.raw = RawObservations(env)
        with self._recorder.raw.listening():
            return super().collect_rollouts(env, *args, **options)

    def train(self) -> None:
        super().train()
        loss = self.intrinsic_value.take_loss()
        if loss is not None:
            self.logger.record("intrinsic/value_loss", loss)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, variables = super()._get_torch_save_params()
        return [*modules, "bonus"], variables

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "intrinsic_value", "_recorder"]


def _check(*, gamma: float, gae_lambda: float, vf_coef: float) -> None:
    if not 0 <= gamma < 1:
        raise ValueError(
            f"`intrinsic_gamma` must lie in [0, 1), since that stream never ends; got {gamma}. Take 0.99."
        )
    if not 0 <= gae_lambda <= 1:
        raise ValueError(f"`intrinsic_gae_lambda` must lie in [0, 1]; got {gae_lambda}. Take 0.95.")
    if not 0 <= vf_coef < float("inf"):
        raise ValueError(
            f"`intrinsic_vf_coef` must be a finite number of at least 0; got {vf_coef}. Take 0.5."
        )


class IntrinsicPPO(IntrinsicOnPolicy, PPO):
    r"""Stable-Baselines3's PPO with an intrinsic reward,

    .. math::
        \hat A_t = \hat A^E_t + \beta \hat A^I_t, \qquad
        \hat A^I_t = \sum_{k \ge 0} (\gamma_I \lambda_I)^k
            \bigl(b_{t+k} + \gamma_I V^I(s_{t+k+1}) - V^I(s_{t+k})\bigr).

    After each rollout the bonus scores its transitions, with the observation that each action truly led to;
    the two advantages are added before PPO normalises them, and then the bonus learns. The intrinsic stream
    goes on through the ends of episodes; a second value head learns its returns, within the same loss. Where
    :math:`\beta = 0` all is as in PPO, bit for bit, and the bonus is only logged. The bonus has its own
    optimizer and its own random numbers. It sees observations below VecNormalize.

    ``save`` and ``load`` keep the whole of the bonus in the zip file, as tensors. A bonus that was made
    before is given to ``load(path, bonus=...)`` again. The logger has ``intrinsic/``: mean and deviation of
    the reward, the coefficient, the head's loss, the share of time that the bonus took, and what it reports.

    Args:
        policy, env: as PPO's.
        bonus: the name of a component of the kind ``bonus``, a `Bonus` class, a function of both spaces, or a
            `Bonus`, made for the spaces of one environment.
        bonus_coefficient: :math:`\beta`; a number, or a function of the share of training that remains at the
            start of a rollout, as `Coefficient` is.
        bonus_options: for the name, class or function.
        intrinsic_gamma: :math:`\gamma_I`, also of the bonus's `ReturnNormalizer`.
        intrinsic_gae_lambda: :math:`\lambda_I`.
        intrinsic_vf_coef: the weight of the second value's loss, which is not clipped.
        **options: PPO's, by name. Its ``seed`` is the bonus's and the second head's as well, 0 where None.

    Raises AthenaError for an unknown bonus, ValueError for numbers outside their range, TypeError for a
    policy without a linear ``value_net``.

    Source: Schulman et al. 2017, arXiv:1707.06347; the streams Burda et al. 2018, arXiv:1810.12894, section
    2.3. Departs from it: the coefficient weighs the intrinsic stream alone.

    >>> model = IntrinsicPPO("MlpPolicy", "CartPole-v1", bonus="rnd", n_steps=64, device="cpu", seed=0)
    >>> model = model.learn(128)
    >>> model.bonus.ready, model.num_timesteps
    (True, 128)
    """

"""The callback for replay buffers with a bonus: a coefficient that follows training, and logs."""

from __future__ import annotations

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from athena_explore._coefficient import Schedule, as_coefficient
from athena_explore.sb3._replay import SampledBonus


class IntrinsicRewardCallback(BaseCallback):
    r"""Logs what a replay buffer's bonus does, and lets its coefficient :math:`\beta(p)` follow training.

    The logger has ``intrinsic/``: mean and deviation of the bonus of the latest samples, the coefficient, and
    what the bonus reported when it learned last. `IntrinsicPPO` and its like log the same by themselves.

    Args:
        coefficient: a number, or a function of the share of training that remains, as `Coefficient` is; None
            leaves that of the buffer as it is.

    Raises ValueError for a coefficient that is no weight, TypeError when used with a model whose replay
    buffer has no bonus.

    >>> from stable_baselines3 import DQN
    >>> from athena_explore.sb3 import IntrinsicReplayBuffer
    >>> model = DQN("MlpPolicy", "CartPole-v1", replay_buffer_class=IntrinsicReplayBuffer, buffer_size=500)
    >>> model = model.learn(200, callback=IntrinsicRewardCallback(lambda remaining: 2 * remaining))
    >>> round(model.replay_buffer.coefficient, 2)
    0.04
    """

    def __init__(self, coefficient: float | Schedule | None = None) -> None:
        super().__init__()
        self.coefficient = None if coefficient is None else as_coefficient(coefficient)

    @property
    def _buffer(self) -> SampledBonus:
        buffer = self.model.replay_buffer if isinstance(self.model, OffPolicyAlgorithm) else None
        if not isinstance(buffer, SampledBonus):
            raise TypeError(
                "`replay_buffer_class` of the model must be `IntrinsicReplayBuffer` or another with a bonus; "
                f"got {type(buffer).__name__}."
            )
        return buffer

    def _on_rollout_start(self) -> None:
        buffer = self._buffer
        if self.coefficient is not None:
            buffer.coefficient = self.coefficient(self.model._current_progress_remaining)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = self._buffer
        values = {"coefficient": buffer.coefficient, **buffer.metrics}
        if buffer.sampled is not None:
            deviation, mean = torch.std_mean(buffer.sampled, correction=0)
            values |= {"reward_mean": float(mean), "reward_std": float(deviation)}
        for name, value in values.items():
            self.logger.record(f"intrinsic/{name}", value)

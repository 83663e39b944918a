"""A rollout buffer with a second stream of returns, on top of any of Stable-Baselines3's."""

from __future__ import annotations

import functools
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer

from athena_explore.sb3._policy_head import IntrinsicValue

Array = NDArray[np.float32]
B = TypeVar("B", bound=RolloutBuffer)


def endless_advantages(
    rewards: Array, values: Array, last_values: Array, *, gamma: float, gae_lambda: float
) -> Array:
    r"""Generalised advantages of a stream that goes on through the ends of episodes,

    .. math::
        \hat A_t = \delta_t + \gamma \lambda \hat A_{t+1}, \qquad
        \delta_t = r_t + \gamma V(s_{t+1}) - V(s_t),

    where :math:`s_{t+1}` is what the next step starts from: after an end, the first observation of the next
    episode. What is new does not end with an episode, and a return cut there would be one more thing to fear.

    Shape: rewards and values ``(T, N)``, last values ``(N,)``, of the observations after the last step.

    Source: Schulman et al. 2016, arXiv:1506.02438, eq. 16; without ends as Burda et al. 2018,
    arXiv:1810.12894, section 2.3. Departs from them: no.

    >>> ones, zero = np.ones((3, 1), np.float32), np.zeros((3, 1), np.float32)
    >>> endless_advantages(ones, zero, zero[0], gamma=0.5, gae_lambda=1.0).ravel()
    array([1.75, 1.5 , 1.  ], dtype=float32)
    """
    following = np.concatenate([values[1:], last_values[None]])
    advantages = (rewards + gamma * following - values).astype(np.float32)
    decay = np.float32(gamma * gae_lambda)
    for t in range(len(rewards) - 2, -1, -1):
        advantages[t] += decay * advantages[t + 1]
    return advantages


class IntrinsicReturns(RolloutBuffer):
    """What comes in front of a buffer's class: advantages of both streams, and the second one's returns.

    `with_intrinsic_returns` puts it there.
    """

    intrinsic_value: IntrinsicValue
    intrinsic_returns: Array | None = None  # as `swap_and_flatten` leaves the others; None: nothing to learn

    def add_intrinsic(self, advantages: Array, values: Array, *, coefficient: float) -> None:
        """Add the advantages ``(T, N)`` of the intrinsic stream; its returns become those to be learned."""
        self.advantages += np.float32(coefficient) * advantages
        self.intrinsic_returns = self.swap_and_flatten(advantages + values)

    def reset(self) -> None:
        self.intrinsic_returns = None
        super().reset()

    def _get_samples(self, batch_inds: NDArray[Any], *args: Any, **options: Any) -> Any:
        samples = super()._get_samples(batch_inds, *args, **options)
        if self.intrinsic_returns is not None:
            self._expect(self.intrinsic_returns[batch_inds], getattr(samples, "mask", None))
        return samples

    def _expect(self, returns: Array, mask: torch.Tensor | None) -> None:
        if mask is None:
            self.intrinsic_value.expect(self.to_torch(returns.ravel()))
        else:  # sequences of a recurrent policy, padded as the samples were
            padded = cast(Any, self).pad_and_flatten(returns)
            self.intrinsic_value.expect(padded, mask > 0.5)


def with_intrinsic_returns(buffer: RolloutBuffer, value: IntrinsicValue) -> None:
    """Let a rollout buffer, of whatever class, be one with `IntrinsicReturns` as well.

    >>> from gymnasium import spaces
    >>> from stable_baselines3.common.policies import ActorCriticPolicy
    >>> box, two = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
    >>> buffer = RolloutBuffer(4, box, two)
    >>> with_intrinsic_returns(buffer, IntrinsicValue(ActorCriticPolicy(box, two, lambda _: 1e-3)))
    >>> isinstance(buffer, IntrinsicReturns), isinstance(buffer, RolloutBuffer)
    (True, True)
    """
    buffer.__class__ = _both(type(buffer))
    cast(IntrinsicReturns, buffer).intrinsic_value = value


@functools.cache
def _both(kind: type[RolloutBuffer]) -> type[RolloutBuffer]:
    return type(f"Intrinsic{kind.__name__}", (IntrinsicReturns, kind), {})

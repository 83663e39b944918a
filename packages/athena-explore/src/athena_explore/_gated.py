"""A bonus gated or modulated by another."""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium.spaces import Space
from torch import Tensor

from athena_explore._bonus import Normalization
from athena_explore._combine import Combination, Part


class _Pair(Combination):
    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        bonus: Part,
        by: Part,
        seed: int = 0,
        normalize: Normalization = "none",
        gamma: float = 0.99,
    ) -> None:
        super().__init__(
            observation_space, action_space, parts=[bonus, by], seed=seed, normalize=normalize, gamma=gamma
        )


class Gated(_Pair):
    r"""A bonus that counts only where another is above a threshold, :math:`b \cdot [g > \tau]`.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Combination`.
        bonus: part 0, :math:`b`.
        by: part 1, :math:`g`.
        threshold: :math:`\tau`.

    Shape: rewards are ``(T, N)``.

    >>> from gymnasium import spaces
    >>> from athena_explore import RND, Transition
    >>> bonus = Gated(spaces.Box(0, 1, (2,)), spaces.Discrete(3), bonus=RND, by=RND, threshold=1e9)
    >>> obs, ends = torch.rand(8, 2, 2), torch.zeros(8, 2, dtype=torch.bool)
    >>> transition = Transition(obs, torch.zeros(8, 2), obs, ends, ends)
    >>> _ = bonus.update(transition)
    >>> float(bonus.parts[0].score(transition).min()) > 0, float(bonus.score(transition).max())
    (True, 0.0)
    """

    def __init__(
        self, observation_space: Space, action_space: Space, *, threshold: float = 0.0, **options: Any
    ) -> None:
        super().__init__(observation_space, action_space, **options)
        if math.isnan(threshold):
            raise ValueError(f"`threshold` must be a number; got {threshold}. Take 0.")
        self.threshold = threshold

    def _combined(self, rewards: list[Tensor]) -> Tensor:
        bonus, gate = rewards
        return torch.where(gate > self.threshold, bonus, 0)


class Modulated(_Pair):
    r"""A bonus times another that is kept in a range, :math:`b \cdot \min(\max(g, l), h)`.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Combination`.
        bonus: part 0, :math:`b`.
        by: part 1, :math:`g`.
        low, high: :math:`l` and :math:`h`.

    Shape: rewards are ``(T, N)``. Raises ValueError unless ``0 <= low <= high``.

    Source: Badia et al. 2020, arXiv:2002.06038, section 2, with :math:`l = 1` and :math:`h = L = 5`.
    Departs from it: any two bonuses; `NGU` has the paper's own.

    >>> from gymnasium import spaces
    >>> from athena_explore import RND, Transition
    >>> bonus = Modulated(spaces.Box(0, 1, (2,)), spaces.Discrete(3), bonus=RND, by=RND, low=2, high=2)
    >>> obs, ends = torch.rand(8, 2, 2), torch.zeros(8, 2, dtype=torch.bool)
    >>> transition = Transition(obs, torch.zeros(8, 2), obs, ends, ends)
    >>> _ = bonus.update(transition)
    >>> torch.allclose(bonus.score(transition), 2 * bonus.parts[0].score(transition))
    True
    """

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        low: float = 1.0,
        high: float = 5.0,
        **options: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **options)
        if not 0 <= low <= high < math.inf:
            raise ValueError(
                f"`low` and `high` must be finite, 0 <= low <= high; got {low} and {high}. Take 1 and 5."
            )
        self.low, self.high = low, high

    def _combined(self, rewards: list[Tensor]) -> Tensor:
        bonus, factor = rewards
        return bonus * factor.clamp(self.low, self.high)

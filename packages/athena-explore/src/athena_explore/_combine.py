"""Bonuses of bonuses: their sum and their product."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

from athena_explore._as_bonus import as_bonus
from athena_explore._bonus import Bonus, Normalization, Scored
from athena_explore._transition import Transition

Part = str | Bonus | Callable[..., Bonus]  # a factory is called with the two spaces and a `seed`


class Combination(Bonus):
    """A bonus whose rewards are a function of those of its parts, which keep all state.

    Each part has its own normalisation, seed and optimizer, as if it were alone; a part that is not ``ready``
    gives 0. The metrics of part ``i`` end in ``_i``. Subclasses implement `_combined`.

    Args:
        observation_space, action_space, normalize, gamma: see `Bonus`; these are of the combined reward.
        parts: made bonuses of the same spaces, names of components of the kind ``bonus``, or classes or
            functions that make one of ``(observation_space, action_space, seed=...)``.
        seed: seeds of the parts that are made here are drawn from it.

    Raises ValueError for a part that has other spaces, or that stands there twice.

    >>> from gymnasium import spaces
    >>> from athena_explore import RND
    >>> class Largest(Combination):
    ...     def _combined(self, rewards):
    ...         return torch.stack(rewards).amax(0)
    >>> bonus = Largest(spaces.Box(0, 1, (2,)), spaces.Discrete(3), parts=[RND, RND])
    >>> len(bonus.parts), bonus.episodic, bonus.ready
    (2, False, False)
    """

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        parts: Sequence[Part],
        seed: int = 0,
        normalize: Normalization = "none",
        gamma: float = 0.99,
    ) -> None:
        super().__init__(observation_space, action_space, seed=seed, normalize=normalize, gamma=gamma)
        if not parts:
            raise ValueError("`parts` must hold at least one bonus; got none. Give a class.")
        self.parts = nn.ModuleList(self._made(part, index) for index, part in enumerate(parts))
        if len(set(self.parts)) < len(self.parts):
            raise ValueError(
                "`parts` must be different bonuses; got one twice. Make a second one of its class."
            )

    @abstractmethod
    def _combined(self, rewards: list[Tensor]) -> Tensor:
        """The reward of the rewards of the parts, all of one shape."""

    @property
    def episodic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return any(part.episodic for part in self._parts())

    @property
    def ready(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return all(part.ready for part in self._parts())

    def _made(self, part: Part, index: int) -> Bonus:
        if not isinstance(part, Bonus):
            seed = int(torch.randint(2**31, (), generator=self.generator, device="cpu"))
            both = self.observation_space, self.action_space
            return as_bonus(part, *both, seed=seed) if isinstance(part, str) else part(*both, seed=seed)
        if (part.observation_space, part.action_space) != (self.observation_space, self.action_space):
            raise ValueError(
                f"`parts[{index}]` must be of the spaces {self._spaces()}; got {part._spaces()}. Give its "
                "class, and it is made here."
            )
        return part

    def _parts(self) -> list[Bonus]:
        return [*self.parts]  # pyright: ignore[reportReturnType]

    def _score(self, transition: Transition) -> Scored:
        return Scored(self._combined([part.score(transition) for part in self._parts()]))

    def _score_samples(self, samples: Transition) -> Tensor:
        return self._combined([part.score_samples(samples) for part in self._parts()])

    def _commit(self, transition: Transition, after: Any) -> None:  # noqa: ARG002
        for part in self._parts():
            part.advance(transition)

    def _learn(self, samples: Transition) -> dict[str, float]:
        learned = [part.learn(samples) for part in self._parts()]
        return {f"{name}_{i}": value for i, metrics in enumerate(learned) for name, value in metrics.items()}

    def _clear_episodes(self) -> None:
        for part in self._parts():
            part.clear_episodes()


class _Weighted(Combination):
    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        parts: Sequence[Part],
        weights: Sequence[float] | None = None,
        seed: int = 0,
        normalize: Normalization = "none",
        gamma: float = 0.99,
    ) -> None:
        super().__init__(
            observation_space, action_space, parts=parts, seed=seed, normalize=normalize, gamma=gamma
        )
        self.weights = [1.0] * len(parts) if weights is None else [float(weight) for weight in weights]
        if len(self.weights) != len(parts):
            raise ValueError(
                f"`weights` must hold one for each of {len(parts)} parts; got {len(self.weights)}. Leave "
                "them out to have 1 for each."
            )
        if not all(0 <= weight < math.inf for weight in self.weights):
            raise ValueError(f"`weights` must be finite and at least 0; got {self.weights}. Take 1.")


class Sum(_Weighted):
    r"""A weighted sum of bonuses, :math:`b = \sum_i w_i b_i`.

    Args:
        observation_space, action_space, parts, seed, normalize, gamma: see `Combination`.
        weights: :math:`w_i`; 1 where left out.

    Shape: rewards are ``(T, N)``.

    Raises ValueError for weights that are negative, or not as many as the parts.

    >>> from gymnasium import spaces
    >>> from athena_explore import RND
    >>> bonus = Sum(spaces.Box(0, 1, (2,)), spaces.Discrete(3), parts=[RND, RND], weights=[1, 0.5])
    >>> obs, ends = torch.rand(8, 2, 2), torch.zeros(8, 2, dtype=torch.bool)
    >>> sorted(bonus.update(Transition(obs, torch.zeros(8, 2), obs, ends, ends)))
    ['prediction_error_0', 'prediction_error_1']
    """

    @property
    def ready(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return any(part.ready for part in self._parts())

    def _combined(self, rewards: list[Tensor]) -> Tensor:
        return sum(
            (weight * reward for weight, reward in zip(self.weights, rewards, strict=True)),
            torch.zeros_like(rewards[0]),
        )


class Product(_Weighted):
    r"""A weighted product of bonuses, :math:`b = \prod_i b_i^{w_i}`: an episodic one times a life-long one.

    Args:
        observation_space, action_space, parts, seed, normalize, gamma: see `Combination`.
        weights: the exponents :math:`w_i`; 1 where left out.

    Shape: rewards are ``(T, N)``.

    Raises ValueError for weights that are negative, or not as many as the parts.

    Source: Henaff, Jiang, Raileanu 2023, arXiv:2306.03236, which multiplies a global and an episodic bonus.
    Departs from it: exponents.

    >>> from gymnasium import spaces
    >>> from athena_explore import RND
    >>> bonus = Product(spaces.Box(0, 1, (2,)), spaces.Discrete(3), parts=[RND, RND], weights=[1, 0.5])
    >>> obs, ends = torch.rand(8, 2, 2), torch.zeros(8, 2, dtype=torch.bool)
    >>> transition = Transition(obs, torch.zeros(8, 2), obs, ends, ends)
    >>> _ = bonus.update(transition)
    >>> one, other = (part.score(transition) for part in bonus.parts)
    >>> torch.allclose(bonus.score(transition), one * other.sqrt())
    True
    """

    def _combined(self, rewards: list[Tensor]) -> Tensor:
        powers = [reward**weight for weight, reward in zip(self.weights, rewards, strict=True)]
        return torch.stack(powers).prod(0)

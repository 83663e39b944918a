"""The entropy of visited states, by the distance to their neighbours under a random encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Space
from torch import Tensor

from athena_explore._bonus import Bonus, Normalization, Scored
from athena_explore._clock import Clock
from athena_explore._encoder import EncoderFactory, encoder_factory
from athena_explore._transition import Transition

_CHUNK = 128  # rows whose distances are held at once


class _Remembered(NamedTuple):
    features: Tensor
    passed: Tensor


class RE3(Bonus):
    r"""Random encoders for efficient exploration: how far a state is from its :math:`k`-th nearest neighbour.

    .. math:: b(s_{t+1}) = (1 - \rho)^{t - 1} \log\big(\lVert y - y^{k\text{-NN}} \rVert_2 + 1\big), \qquad
        y = f(s_{t+1})

    with a random encoder :math:`f` that stays as it is. Neighbours are sought among the ``capacity`` states
    visited last before, in the order of time, then of environments. Of fewer than :math:`k`, the farthest
    counts; the very first state has a reward of 0. States of a replay buffer that are still remembered are
    their own first neighbour.

    Memory: 4 bytes x ``width`` x ``capacity``, 1 MB by default.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Bonus`.
        k: which neighbour.
        capacity: how many states are remembered.
        width: features of the encoder.
        hidden: widths of the layers between.
        encoder: makes a network of a space and a width, in place of `Encoder`.
        decay: :math:`\rho`, what the bonus loses with each transition.

    Shape: rewards are ``(T, N)``.

    Raises ValueError for options outside their range.

    Source: Seo et al. 2021, arXiv:2102.09430, section 3. Departs from it: it rewards :math:`s_t`; it seeks
    neighbours in the whole replay buffer, or with on-policy learners in the whole rollout, later states
    included.

    >>> from gymnasium import spaces
    >>> space, same = spaces.Box(-1, 1, (3,)), lambda space, width: torch.nn.Identity()
    >>> bonus = RE3(space, spaces.Discrete(2), k=1, encoder=same)
    >>> visited, ends = torch.eye(3).view(3, 1, 3), torch.zeros(3, 1, dtype=torch.bool)
    >>> bonus.score(Transition(visited, torch.zeros(3, 1), visited, ends, ends)).flatten().exp() - 1
    tensor([0.0000, 1.4142, 1.4142])
    """

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        seed: int = 0,
        normalize: Normalization = "none",
        gamma: float = 0.99,
        k: int = 3,
        capacity: int = 4096,
        width: int = 64,
        hidden: Sequence[int] = (64, 64),
        encoder: EncoderFactory | None = None,
        decay: float = 0.0,
    ) -> None:
        super().__init__(observation_space, action_space, seed=seed, normalize=normalize, gamma=gamma)
        if not 1 <= k <= capacity:
            raise ValueError(f"`k` must lie in [1, {capacity}], what `capacity` remembers; got {k}. Take 3.")
        self.k, self.capacity = k, capacity
        self.clock = Clock(decay=decay)
        make = encoder_factory(encoder, hidden=hidden)
        with self.own_random():
            self.encoder = make(observation_space, width).requires_grad_(False)

    def _score(self, transition: Transition) -> Scored:
        valid = transition.valid
        times, passed = self.clock(valid)
        features = self.encoder(transition.flat().next_obs)
        remembered = self._remembered(features)
        every = torch.cat([remembered, features])
        before = torch.arange(len(features), device="cpu") + len(remembered)
        found = self._entropies(features, every, before) * self.clock.factor(times[valid])
        rewards = found.new_zeros(valid.shape)
        rewards[valid] = found
        return Scored(rewards, _Remembered(every[-self.capacity :], passed))

    def _score_samples(self, samples: Transition) -> Tensor:
        features = self.encoder(samples.next_obs)
        remembered = self._remembered(features)
        before = torch.full((len(features),), len(remembered), device="cpu")
        return self._entropies(features, remembered, before) * self.clock.factor(self.clock.passed)

    def _commit(self, transition: Transition, after: Any) -> None:  # noqa: ARG002  `after` tells all
        self.memory["features"] = after.features.clone()  # a view would keep all that it was cut from
        self.clock.commit(after.passed)

    def _remembered(self, features: Tensor) -> Tensor:
        remembered = self.memory.get("features")
        return features[:0] if remembered is None else remembered

    def _entropies(self, features: Tensor, every: Tensor, before: Tensor) -> Tensor:
        """The bonus of rows before which so many of ``every`` came; ``before`` ascends and is on the CPU."""
        pieces = zip(features.split(_CHUNK), before.split(_CHUNK), strict=True)
        distances = [self._distances(piece, every, seen) for piece, seen in pieces if len(piece)]
        return torch.cat(distances).log1p() if distances else features.new_zeros(0)

    def _distances(self, features: Tensor, every: Tensor, before: Tensor) -> Tensor:
        start, stop = max(0, int(before[0]) - self.capacity), int(before[-1])
        if stop == 0:
            return features.new_zeros(len(features))
        ages = before[:, None] - torch.arange(start, stop, device="cpu")  # 1 of the state visited last
        others = ((ages < 1) | (ages > self.capacity)).to(features.device)
        # Products of matrices would be faster, and would give states distances to themselves.
        distances = torch.cdist(features, every[start:stop], compute_mode="donot_use_mm_for_euclid_dist")
        nearest = (
            distances.masked_fill(others, torch.inf).topk(min(self.k, stop - start), largest=False).values
        )
        found = before.clamp(max=nearest.shape[1]).to(features.device)
        distance = nearest.gather(1, (found - 1).clamp(min=0)[:, None])[:, 0]
        return torch.where(found > 0, distance, 0)

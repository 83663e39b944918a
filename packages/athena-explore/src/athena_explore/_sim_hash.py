"""Counts of states that a random projection takes for one."""

from __future__ import annotations

from typing import Unpack

import torch
from gymnasium import spaces
from gymnasium.spaces import Space
from torch import Tensor, nn

from athena_explore._count_bonus import CountBonus, CountOptions
from athena_explore._spaces import dense, dense_width, leaves, parts
from athena_explore._state_keys import bounds
from athena_explore._transition import Observation


class GaussianSigns(nn.Module):
    r"""The signs of a fixed Gaussian projection, :math:`\operatorname{sgn}(A x)`, as the bits of one integer.

    A bit is 1 where the projection is 0 or more. Two vectors at an angle of :math:`\theta` differ in each bit
    by a chance of :math:`\theta / \pi`. :math:`A` is drawn from torch's generator.

    Args:
        inside: features of :math:`x`.
        bits: rows of :math:`A`, at most 64.

    Shape: ``(B, inside) -> (B,)`` in int64.

    Raises ValueError if ``bits`` lies outside [1, 64].

    Source: Charikar 2002, Similarity estimation techniques from rounding algorithms. Departs from it: no.

    >>> signs = GaussianSigns(3, 8)
    >>> signs(torch.zeros(1, 3))
    tensor([255])
    """

    projection: Tensor
    values: Tensor

    def __init__(self, inside: int, bits: int) -> None:
        super().__init__()
        if not 1 <= bits <= 64:
            raise ValueError(f"`bits` must lie in [1, 64]; got {bits}. A key has 64 bits.")
        self.register_buffer("projection", torch.randn(inside, bits))
        self.register_buffer("values", 1 << torch.arange(bits), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        return ((features.to(self.projection.dtype) @ self.projection >= 0) * self.values).sum(1)


class SimHash(CountBonus):
    r"""Visits of states with the same signs in a random projection: similar states share their visits.

    .. math:: b(s) = \frac{1}{\sqrt{n(\phi(s))}}, \qquad \phi(s) = \operatorname{sgn}(A\, g(s)), \quad
        A_{ij} \sim N(0, 1)

    and the other forms of `CountBonus`. :math:`g` scales numbers with bounds to [-1, 1], makes discrete
    values one-hot, and leaves others as they are. The projection is drawn once and is part of checkpoints. A
    state whose projection is within rounding of 0 may change its key with the size of the batch.

    Memory: 32 to 64 bytes a distinct code, of which there are at most :math:`2^k`.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Bonus`.
        of, form, beta, decay, bins: see `CountBonus`.
        bits: :math:`k`; more bits tell more states apart.

    Shape: rewards are ``(T, N)``.

    Raises ValueError for options outside their range.

    Source: Tang et al. 2017, arXiv:1611.04717, section 2.2. Departs from it: a rollout's own visits count
    one after the other, not all at once; at most 64 bits.

    >>> from athena_explore import Transition
    >>> bonus = SimHash(spaces.Box(-1, 1, (3,)), spaces.Discrete(2))
    >>> state = torch.tensor([0.1, 0.2, -0.9])
    >>> visited = torch.stack([state, state / 2, -state]).view(3, 1, 3)  # two at one angle
    >>> ends = torch.zeros(3, 1, dtype=torch.bool)
    >>> bonus.score(Transition(visited, torch.zeros(3, 1), visited, ends, ends)).flatten()
    tensor([1.0000, 0.7071, 1.0000])
    """

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        bits: int = 32,
        **options: Unpack[CountOptions],
    ) -> None:
        super().__init__(observation_space, action_space, **options)
        self.plain = [part for _, part in leaves(observation_space)]
        width = sum(dense_width(part) for part in self.plain)
        with self.own_random():
            self.signs = GaussianSigns(width, bits)

    def _state_keys(self, observations: Observation) -> Tensor:
        values = zip(self.plain, parts(self.observation_space, observations), strict=True)
        return self.signs(torch.cat([_scaled(space, value) for space, value in values], 1))


def _scaled(space: Space, value: Tensor) -> Tensor:
    """Rows of floats, those with bounds between -1 and 1."""
    rows = dense(space, value).float()
    if not isinstance(space, spaces.Box):
        return rows
    low, high, bounded = bounds(space, rows.device)
    scaled = 2 * (rows - low.flatten()) / (high - low).flatten() - 1
    return torch.where((bounded & (high > low)).flatten(), scaled, rows)

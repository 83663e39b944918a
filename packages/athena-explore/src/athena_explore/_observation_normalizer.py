"""Observations made comparable: minus their running mean, over their running deviation, clipped."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from gymnasium.spaces import Space
from torch import Tensor, nn

from athena_explore._moments import RunningMoments
from athena_explore._spaces import leaves, parts, rebuild, shape_of


class ObservationNormalizer(nn.Module):
    r"""Per feature :math:`\operatorname{clip}((s - \mu) / \sigma, -c, c)`; discrete ones as they are.

    A random network's error says nothing of inputs on different scales. The statistics come from what
    `update` is given alone; `ready` tells whether there was any.

    Args:
        space: of one observation.
        clip: :math:`c`.

    Shape: an observation ``(B, *shape)`` to one of the same form, in floats.

    Source: Burda et al. 2018, arXiv:1810.12894, section 2.4. Departs from it: a feature of which
    :math:`\sigma` is 0 is only centred.

    >>> normalizer = ObservationNormalizer(spaces.Box(-9, 9, (1,)))
    >>> normalizer.update(torch.tensor([[0.0], [2.0]]))
    >>> normalizer(torch.tensor([[2.0], [30.0]]))
    tensor([[1.],
            [5.]])
    """

    def __init__(self, space: Space, *, clip: float = 5.0) -> None:
        super().__init__()
        self.space, self.clip = space, clip
        self.moments = nn.ModuleList(
            RunningMoments(shape_of(part)) if isinstance(part, spaces.Box) else nn.Identity()
            for _, part in leaves(space)
        )

    @property
    def ready(self) -> bool:
        """Whether there are statistics, or none are needed."""
        running = [one for one in self.moments if isinstance(one, RunningMoments)]
        return all(int(one.count) > 0 for one in running)

    def update(self, observations: Any) -> None:
        """Take in observations of shape ``(B, ...)``."""
        for moments, value in zip(self.moments, parts(self.space, observations), strict=True):
            if isinstance(moments, RunningMoments):
                moments.update(value)

    def forward(self, observations: Any) -> Any:
        pairs = zip(self.moments, parts(self.space, observations), strict=True)
        return rebuild(self.space, (self._one(moments, value) for moments, value in pairs))

    def _one(self, moments: nn.Module, value: Tensor) -> Tensor:
        if not isinstance(moments, RunningMoments):
            return value
        deviation = moments.variance.sqrt()
        scale = torch.where(deviation > 0, deviation, 1)
        own = value.to(moments.mean.dtype)
        centred = own - moments.mean if own is value else own.sub_(moments.mean)  # the caller's stays
        return centred.div_(scale).clamp_(-self.clip, self.clip)

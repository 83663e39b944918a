"""Observations as rows of small integers, each with its own range."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from gymnasium.spaces import Space
from torch import Tensor, nn

from athena_explore._encoder import channels_last
from athena_explore._spaces import is_image, leaves, parts, shape_of
from athena_explore._state_keys import binned
from athena_explore._transition import Observation

IMAGE_SIDE = 42
IMAGE_LEVELS = 8
_MOST_VALUES = 256  # of an integer that is not binned


class Symbols(nn.Module):
    """Each discrete value, each number in its bin, each grey level of a smaller image, as a symbol from 0.

    Images larger than 42 rows or columns become grey (the mean of their channels), 42 x 42, of 8 levels.
    Integers in a range of at most 256 stay as they are; all other numbers are binned, as in `StateKeys`.
    What lies outside of its range is outermost.

    Args:
        space: of one observation.
        bins: of each number that is binned.

    Shape: ``(B, *shape) -> (B, F)`` in int64; ``sizes`` is ``(F,)``, how many symbols each place may hold.

    Raises ValueError for a space that is not supported, or if ``bins`` is below 2.

    >>> symbols = Symbols(spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Discrete(3, start=5)]), bins=4)
    >>> symbols((torch.tensor([[-1.0, 0.6]]), torch.tensor([6]))), symbols.sizes
    (tensor([[0, 3, 1]]), tensor([4, 4, 3]))
    """

    sizes: Tensor

    def __init__(self, space: Space, *, bins: int) -> None:
        super().__init__()
        if bins < 2:
            raise ValueError(f"`bins` must be at least 2; got {bins}. Take 16.")
        self.space, self.bins = space, bins
        self.plain = [part for _, part in leaves(space)]
        sizes = np.concatenate([self._sizes_of(part) for part in self.plain])
        self.register_buffer("sizes", torch.as_tensor(sizes), persistent=False)

    def forward(self, observations: Observation) -> Tensor:
        values = zip(self.plain, parts(self.space, observations), strict=True)
        return torch.cat([self._symbols_of(part, value) for part, value in values], 1)

    def _sizes_of(self, space: Space) -> np.ndarray:
        if isinstance(space, spaces.Discrete):
            return np.array([space.n], np.int64)
        if isinstance(space, spaces.MultiDiscrete):
            return space.nvec.flatten().astype(np.int64)
        if _is_large(space):
            return np.full(IMAGE_SIDE**2, IMAGE_LEVELS)
        if _is_small_integer(space):
            return (space.high.astype(np.int64) - space.low + 1).flatten()
        size = 2 if isinstance(space, spaces.MultiBinary) else self.bins
        return np.full(int(np.prod(shape_of(space))), size)

    def _symbols_of(self, space: Space, value: Tensor) -> Tensor:
        if isinstance(space, spaces.Discrete):
            return value.long()[:, None] - int(space.start)
        if _is_large(space):
            return _grey_levels(space, value)
        if _is_small_integer(space):
            low, high = (torch.as_tensor(one, device=value.device).long() for one in (space.low, space.high))
            value = value.long().clamp(low, high) - low
        elif isinstance(space, spaces.Box):
            value = binned(space, value, self.bins)
        elif isinstance(space, spaces.MultiDiscrete):
            value = value.long() - torch.as_tensor(space.start, device=value.device)
        return value.long().unsqueeze(-1).flatten(1)  # a number without axes, too


def _is_large(space: Space) -> bool:
    return is_image(space) and max(sorted(shape_of(space))[1:]) > IMAGE_SIDE


def _is_small_integer(space: Space) -> TypeGuard[spaces.Box]:
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.integer):
        return False
    return bool((space.high.astype(float) - space.low < _MOST_VALUES).all())


def _grey_levels(space: Space, images: Tensor) -> Tensor:
    grey = images.float().mean(-1 if channels_last(space) else 1)
    small = F.adaptive_avg_pool2d(grey[:, None], IMAGE_SIDE).flatten(1)
    return (small * (IMAGE_LEVELS / 256)).long().clamp(0, IMAGE_LEVELS - 1)

"""States as 64-bit integers, by which they are counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.spaces import Space
from torch import Tensor, nn

from athena_explore._spaces import leaves, parts, shape_of

_PREMIX = -7046029254386353131  # 0x9E3779B97F4A7C15, the golden ratio in 64 bits
_FINISH = -4658895280553007687  # 0xBF58476D1CE4E5B9, of splitmix64
_LOW_HALF = 0xFFFFFFFF
_CHUNK = 2**18  # words mixed at once: 2 MiB, which stays in the cache


class StateKeys(nn.Module):
    r"""A key for each observation or action of a space: equal for equal values, else different.

    The values' bytes are cut into 32-bit words :math:`w_i`, and their key is

    .. math:: k = g\Big(\sum_i m_i \, p(w_i) \bmod 2^{64}\Big)

    with fixed odd multipliers :math:`m_i` and fixed bijections :math:`p`, :math:`g` of 64-bit integers: a
    state has the same key in every process, on every device and after every restart. Two values that differ
    in one word alone never share a key. Else they do by a chance of about :math:`2^{-60}`: any two of a
    million states do by 4e-7. Minus zero is zero. Floats are told apart as far as float32 tells them apart.

    Args:
        space: of observations or actions; a Tuple of both spaces makes keys of both.
        bins: cut the range of each number of a floating-point Box into so many equal parts; a number without
            bounds x is first brought between -1 and 1, by :math:`x / (1 + |x|)`. Of none, every float counts.

    Shape: ``(..., *shape) -> (...)`` in int64, for any number of leading axes.

    Raises ValueError for a space that is not supported, or if ``bins`` is below 2.

    Source: multilinear hashing, Lemire and Kaser 2014, arXiv:1202.4961. Departs from it: all 64 bits are
    kept, which needs words whose differences are seldom even, hence :math:`p`.

    >>> keys = StateKeys(spaces.Box(-1, 1, (2,)))
    >>> one, same, other = keys(torch.tensor([[0.0, 0.5], [-0.0, 0.5], [0.5, 0.0]])).tolist()
    >>> one == same, one == other
    (True, False)
    """

    multipliers: Tensor

    def __init__(self, space: Space, *, bins: int | None = None) -> None:
        super().__init__()
        if bins is not None and bins < 2:
            raise ValueError(f"`bins` must be at least 2; got {bins}. Leave it out to tell all floats apart.")
        self.space, self.bins = space, bins
        self.plain = [part for _, part in leaves(space)]
        self.register_buffer("multipliers", torch.empty(0, dtype=torch.int64), persistent=False)

    def forward(self, value: Any) -> Tensor:
        tensors = list(parts(self.space, value))
        lead = tensors[0].shape[: tensors[0].dim() - len(shape_of(self.plain[0]))]
        words = [
            _words(self._discrete(space, tensor).reshape((*lead, *shape_of(space))), len(lead))
            for space, tensor in zip(self.plain, tensors, strict=True)
        ]
        return self._mixed(torch.cat(words, 1) if len(words) > 1 else words[0]).view(lead)

    def _discrete(self, space: Space, tensor: Tensor) -> Tensor:
        """The values in the one dtype that they are told apart in."""
        if not isinstance(space, spaces.Box):
            return tensor.long()
        if tensor.is_floating_point():
            return tensor.float() + 0.0 if self.bins is None else binned(space, tensor, self.bins)
        return tensor.to(torch.uint8) if space.dtype.itemsize == 1 else tensor.long()

    def _mixed(self, words: Tensor) -> Tensor:
        if len(self.multipliers) < words.shape[1]:
            self.multipliers = _odd_numbers(words.shape[1]).to(words.device)
        multipliers = self.multipliers[: words.shape[1]]
        rows = max(1, _CHUNK // max(1, words.shape[1]))
        sums = [(mix(part.long(), _PREMIX).mul_(multipliers)).sum(1) for part in words.split(rows)]
        return mix(torch.cat(sums), _FINISH)


def binned(space: spaces.Box, tensor: Tensor, bins: int) -> Tensor:
    """Which of ``bins`` equal parts of its range each number lies in, from 0; outside is outermost."""
    low, high, bounded = bounds(space, tensor.device)
    tensor = tensor.float()
    share = torch.where(bounded, (tensor - low) / (high - low), (tensor / (1 + tensor.abs()) + 1) / 2)
    return (share * bins).floor().clamp(0, bins - 1).nan_to_num().long()


def bounds(space: spaces.Box, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The lowest and the highest of each number as floats, and whether their range is finite."""
    low, high = (
        torch.as_tensor(bound, dtype=torch.float32, device=device) for bound in (space.low, space.high)
    )
    return low, high, (high - low).isfinite()


def mix(integers: Tensor, multiplier: int) -> Tensor:
    """A bijection of 64-bit integers whose low bits depend on all bits."""
    product = integers * multiplier
    return (product >> 32).bitwise_and_(_LOW_HALF).bitwise_xor_(product)  # torch shifts the sign in


def _words(tensor: Tensor, lead: int) -> Tensor:
    """The bytes of each value as rows of 32-bit integers, filled up with zeros."""
    rows = tensor.flatten(0, lead - 1) if lead else tensor[None]
    rows = rows.reshape(len(rows), -1) if rows.numel() else rows.new_zeros(len(rows), 1)
    if rows.dtype == torch.uint8:
        rows = nn.functional.pad(rows, (0, -rows.shape[1] % 4))
    if rows.stride(-1) != 1:  # also of a single number, whose stride may be any
        rows = rows.clone(memory_format=torch.contiguous_format)
    return rows.contiguous().view(torch.int32)


def _odd_numbers(count: int) -> Tensor:
    """The first odd numbers of splitmix64, a stream that will not change with a library's version."""
    with np.errstate(over="ignore"):
        state = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return torch.from_numpy((state | np.uint64(1)).view(np.int64))

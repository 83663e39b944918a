"""The integers that values are rounded to, and the affine map between the two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Smallest scale, that of torch's observers: an all-zero channel has it in place of 0.
SMALLEST_SCALE = torch.finfo(torch.float32).eps

#: Largest value that a code stands for: below float32's largest, so that no rounding makes it infinite.
LARGEST_VALUE = torch.finfo(torch.float32).max * (1 - 2**-20)


@dataclass(frozen=True)
class Grid:
    r"""The integers that values are rounded to, and which elements share a scale.

    A code :math:`q` stands for :math:`s\,(q - z)`, with the scale :math:`s` and the zero point :math:`z`.

    Args:
        bits: 2 to 8.
        signed: codes around 0, held as int8; otherwise from 0 up, held as uint8.
        symmetric: the zero point is fixed in the middle of an odd number of codes, as many on either side:
            -127 to 127 around 0, or 1 to 255 around 128. Otherwise it is chosen, on all codes.
        axis: one scale for each index of this axis; ``None`` for one of the whole tensor.
        group_size: one scale for so many consecutive elements of the last axis; ``axis`` is then ``None``.

    Raises ValueError for bits outside 2 to 8, an empty group, and an axis beside a group.

    >>> Grid(), Grid().low, Grid().high
    (Grid(bits=8, signed=True, symmetric=True, axis=None, group_size=None), -127, 127)
    >>> Grid(bits=4, signed=False, symmetric=False).high
    15
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    axis: int | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 2 <= self.bits <= 8:
            raise ValueError(
                f"`bits` must lie in [2, 8], and be whole; got {self.bits!r}. A code is held in one byte."
            )
        size = self.group_size
        if size is not None and (not isinstance(size, int) or size < 1):
            raise ValueError(
                f"`group_size` must be at least 1, and whole; got {size!r}. Use None for no groups."
            )
        if self.group_size is not None and self.axis is not None:
            raise ValueError(
                f"`axis` must be None where groups of the last axis share a scale; got axis={self.axis}, "
                f"group_size={self.group_size}. Leave one of them out."
            )

    @property
    def low(self) -> int:
        """The smallest code."""
        smallest = -(2 ** (self.bits - 1)) if self.signed else 0
        return smallest + self.symmetric

    @property
    def high(self) -> int:
        """The largest code."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def dtype(self) -> torch.dtype:
        """What holds a code: int8 or uint8."""
        return torch.int8 if self.signed else torch.uint8

    def grouped(self, x: Tensor) -> Tensor:
        """``x`` with its last axis split into groups, if there are any: ``(..., n) -> (..., n / g, g)``."""
        if self.group_size is None:
            return x
        if x.ndim == 0 or x.shape[-1] % self.group_size:
            raise ValueError(
                f"`group_size` must divide the last axis; got {self.group_size} for shape {tuple(x.shape)}. "
                "Choose a divisor, or skip this layer."
            )
        return x.unflatten(-1, (x.shape[-1] // self.group_size, self.group_size))

    def aligned(self, parameter: Tensor, ndim: int) -> Tensor:
        """A scale or zero point, shaped to meet what `grouped` returns for a tensor of ``ndim`` axes."""
        if self.group_size is not None:
            return parameter.unsqueeze(-1)
        if self.axis is None:
            return parameter
        return parameter.reshape([-1 if axis == self.axis % ndim else 1 for axis in range(ndim)])

    def extremes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest element of all that share a scale, in float32; 0 where there are none."""
        x = self.grouped(x.detach()).float()
        if self.axis is not None:
            x = x.movedim(self.axis, 0).reshape(x.shape[self.axis], -1 if x.numel() else 0)
        elif self.group_size is None:
            x = x.reshape(-1)
        if x.numel() == 0:
            zeros = x.new_zeros(x.shape[:-1])
            return zeros, zeros.clone()
        low, high = torch.aminmax(x, dim=-1)
        return low, high


def choose_qparams(
    low: Tensor, high: Tensor, grid: Grid, *, smallest: float = SMALLEST_SCALE
) -> tuple[Tensor, Tensor]:
    r"""Scale and zero point with which a grid covers ``[low, high]``, widened to hold 0.

    .. math::
        s = \frac{h - l}{q_\mathrm{high} - q_\mathrm{low}}, \qquad
        z = \operatorname{clamp}(q_\mathrm{low} - \operatorname{round}(l / s)),
        \qquad l = \min(\mathrm{low}, 0),\; h = \max(\mathrm{high}, 0)

    and on a symmetric grid :math:`s = 2\max(-l, h) / (q_\mathrm{high} - q_\mathrm{low})` around the fixed
    zero point: with 8 bits, the largest value over 127, and 127 is the largest code. So 0 has a code of its
    own. The scale is at least ``smallest``, and such that every code stands for a finite value.

    Args:
        low: smallest values, one for each scale.
        high: largest values, of the same shape.
        grid: the integers.
        smallest: floor of the scale; torch's observers call it ``eps``.

    Shape: any -> the same, the scale float32 and the zero point int32. Raises ValueError for NaN, infinity,
    different shapes, and ``low`` above ``high``.
    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.1; Krishnamoorthi 2018, arXiv:1806.08342,
    section 2. Departs from it: the floor and the ceiling of the scale.

    >>> choose_qparams(torch.tensor(0.5), torch.tensor(2.54), Grid())
    (tensor(0.0200), tensor(0, dtype=torch.int32))
    >>> choose_qparams(torch.tensor(-1.0), torch.tensor(3.0), Grid(bits=2, signed=False, symmetric=False))
    (tensor(1.3333), tensor(1, dtype=torch.int32))
    """
    low, high = low.detach().float(), high.detach().float()
    if not torch.compiler.is_compiling():  # a graph cannot depend on values
        _check_range(low, high)
    low, high = low.clamp_max(0), high.clamp_min(0)
    steps = float(grid.high - grid.low)
    if grid.symmetric:
        scale = (torch.maximum(-low, high) / (steps / 2)).clamp_min(smallest)
        zero_point = torch.full_like(scale, (grid.low + grid.high) // 2, dtype=torch.int32)
    else:
        span = high - low
        scale = torch.where(span.isinf(), high / steps - low / steps, span / steps).clamp_min(smallest)
        zero_point = grid.low - (low / scale).round().to(torch.int32)
        zero_point = zero_point.clamp(grid.low, grid.high)
    reach = torch.maximum(grid.high - zero_point, zero_point - grid.low)
    return torch.minimum(scale, LARGEST_VALUE / reach), zero_point


def _check_range(low: Tensor, high: Tensor) -> None:
    if low.shape != high.shape:
        raise ValueError(
            f"`high` must have the shape of `low`; got {tuple(high.shape)} beside {tuple(low.shape)}. "
            "Give one value for each scale."
        )
    if not bool((low.isfinite() & high.isfinite()).all()):
        raise ValueError(
            "`low` and `high` must be finite; got NaN or infinity. Look at the data they are of."
        )
    if bool((low > high).any()):
        raise ValueError("`low` must not exceed `high`; got a pair where it does. Exchange the two.")


def quantize_affine(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    r"""Nearest codes, :math:`q = \operatorname{clamp}(\operatorname{round}(x \cdot s^{-1}) + z)`.

    Halves go to the even neighbour, the reciprocal of the scale is rounded to float32, and numbers of 16
    bits are widened first, all as in torch's own quantization. Infinities go to the ends of the grid; NaN
    has no code, and what it becomes is not defined.

    Shape: any -> the same, int8 or uint8. Raises ValueError where the groups do not divide the last axis.
    Source: Jacob et al. 2018, arXiv:1712.05877, eq. 12. Departs from it: no.

    >>> quantize_affine(torch.tensor([-9.0, 0.25, 0.75]), torch.tensor(0.5), torch.tensor(0), Grid(bits=4))
    tensor([-7,  0,  2], dtype=torch.int8)
    """
    codes = rounded(x, scale, zero_point, grid).clamp(grid.low, grid.high)
    return codes.to(grid.dtype).reshape(x.shape)


def dequantize_affine(
    codes: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid, dtype: torch.dtype = torch.float32
) -> Tensor:
    r"""What codes stand for, :math:`s\,(q - z)`, computed in float32.

    Shape: any -> the same. Raises ValueError where the groups do not divide the last axis.
    Source: Jacob et al. 2018, arXiv:1712.05877, eq. 1. Departs from it: no.

    >>> codes = torch.tensor([-7, 0, 2], dtype=torch.int8)
    >>> dequantize_affine(codes, torch.tensor(0.5), torch.tensor(0), Grid(bits=4))
    tensor([-3.5000,  0.0000,  1.0000])
    """
    centred = grid.grouped(codes).float() - grid.aligned(zero_point, codes.ndim)
    return (centred * grid.aligned(scale, codes.ndim)).to(dtype).reshape(codes.shape)


def rounded(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    """Codes before they are clamped to the grid, still floats and in the shape of ``Grid.grouped``."""
    wide = grid.grouped(x).to(torch.promote_types(x.dtype, torch.float32))
    inverse = scale.to(torch.promote_types(scale.dtype, torch.float32)).reciprocal()
    return (wide * grid.aligned(inverse, x.ndim)).round() + grid.aligned(zero_point, x.ndim)

"""Layers whose weights alone are integers, and become floats when they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from athena_compress._grid import Grid
from athena_compress._mirror import mirrored, outputs_first

Functional = Callable[..., Tensor]
_CONVOLUTIONS: dict[tuple[bool, int], Functional] = {
    (False, 1): F.conv1d,
    (False, 2): F.conv2d,
    (True, 1): F.conv_transpose1d,
    (True, 2): F.conv_transpose2d,
}


class Codes(NamedTuple):
    """Weights as integers: one byte each, with a scale and zero point an output or a group."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor


class CodedWeight(nn.Module):
    """A frozen layer that holds its weight as integers of a grid: ``weight_q`` and ``weight_scale``.

    With 4 bits or fewer, two codes of the last axis share a byte. ``weight_zero_point`` is there on an
    asymmetric grid. Scales stay float32 when a model is cast; ``dtype`` is what it was cast to.
    """

    weight_q: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor | None

    def __init__(self, codes: Codes, grid: Grid, weight: Tensor) -> None:
        super().__init__()
        self.grid, self.dtype, self.width = grid, weight.dtype, codes.codes.shape[-1]
        self.register_buffer("weight_q", _halved(codes.codes) if self.halves else codes.codes)
        self.register_buffer("weight_scale", codes.scale)
        self.register_buffer("weight_zero_point", None if grid.symmetric else codes.zero_point)

    @property
    def halves(self) -> bool:
        """Whether a byte holds two codes."""
        return self.grid.bits <= 4 and self.width % 2 == 0

    @property
    def weight(self) -> Tensor:
        """The weights that the integers stand for, made anew in the layer's dtype."""
        return self.decoded(self.weight_q, self.weight_scale, self.weight_zero_point, self.dtype)

    def decoded(self, held: Tensor, scale: Tensor, zero_point: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Floats of some rows of what is held, with their scales and zero points."""
        codes = _doubled(held) if self.halves else held
        wide = self.grid.grouped(codes).to(torch.float32)
        shape = [*scale.shape, *[1] * (wide.ndim - scale.ndim)]
        if zero_point is not None:
            wide = wide - zero_point.view(shape)
        return (wide * scale.view(shape)).to(dtype).view(codes.shape)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = self.weight_scale
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=exact.device)).dtype
        super()._apply(fn, recurse)
        if self.weight_scale.dtype != exact.dtype:  # `model.bfloat16()` is not meant for scales
            self.weight_scale = exact.to(self.weight_scale.device)
        return self

    def grid_repr(self) -> str:
        """Bits and grouping, in words."""
        group = "" if self.grid.group_size is None else f", group_size={self.grid.group_size}"
        return f"bits={self.grid.bits}, symmetric={self.grid.symmetric}{group}"


class WeightOnlyLinear(CodedWeight):
    """A linear layer of integer weights and float inputs: a quarter or an eighth of the memory.

    The weight is made float at each call, so that on a CPU it is slower than the float layer unless
    memory binds; what it loses to float is the rounding of its weights alone. Gradients flow to inputs.

    Args:
        linear: the float layer, for its sizes and bias.
        codes: its weights as integers.
        grid: of the integers.

    Shape: ``(..., in_features) -> (..., out_features)``, in the dtype of the input.
    Source: Dettmers et al. 2022, arXiv:2208.07339, section 2.1; groups: Shen et al. 2019,
    arXiv:1909.05840, section 3.2. Departs from them: inputs stay floats.

    >>> from athena_compress import quantize
    >>> linear = nn.Linear(64, 4)
    >>> layer = quantize(linear, "int4-weight-only", group_size=32)
    >>> x = torch.randn(3, 64)
    >>> torch.allclose(layer(x), linear(x), atol=0.2)
    True
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear, codes: Codes, grid: Grid) -> None:
        super().__init__(codes, grid, linear.weight)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the float layer's name
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.grid_repr()}"


class WeightOnlyConv(CodedWeight):
    """A convolution, plain or transposed, of integer weights and float inputs.

    Args:
        convolution: the float layer, for its geometry and bias.
        codes: its weights as integers.
        grid: of the integers.

    Shape: that of the float layer; transposed ones take no ``output_size``.

    >>> from athena_compress import quantize
    >>> convolution = nn.Conv2d(3, 4, 3)
    >>> x = torch.randn(2, 3, 8, 8)
    >>> torch.allclose(quantize(convolution, "int8-weight-only")(x), convolution(x), atol=0.05)
    True
    """

    bias: Tensor | None

    def __init__(self, convolution: _ConvNd, codes: Codes, grid: Grid) -> None:
        super().__init__(codes._replace(codes=codes.codes.flatten(1)), grid, convolution.weight)
        channels, *kernel = outputs_first(convolution).shape[1:]
        self.filter_shape = (channels, *kernel)
        self.register_buffer("bias", None if convolution.bias is None else convolution.bias.detach().clone())
        self.transposed = isinstance(convolution, _ConvTransposeNd)
        self.geometry: dict[str, Any] = {
            name: getattr(convolution, name) for name in ("stride", "padding", "dilation", "groups")
        }
        self.pads: list[int] | None = None
        self.pad_mode = convolution.padding_mode
        if self.transposed:
            self.geometry["output_padding"] = convolution.output_padding
        elif self.pad_mode != "zeros":
            self.pads, self.geometry["padding"] = list(convolution._reversed_padding_repeated_twice), 0

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the float layer's name
        x = input if self.pads is None else F.pad(input, self.pads, mode=self.pad_mode)
        convolve = _CONVOLUTIONS[self.transposed, len(self.filter_shape) - 1]
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return convolve(x, self.weight.to(x.dtype), bias, **self.geometry)

    @property
    def weight(self) -> Tensor:
        # not through `super()`, which the compiler cannot follow into a property
        rows = self.decoded(self.weight_q, self.weight_scale, self.weight_zero_point, self.dtype)
        weight = rows.unflatten(1, self.filter_shape)
        return mirrored(weight, self.geometry["groups"]) if self.transposed else weight

    def extra_repr(self) -> str:
        return f"{self.filter_shape}, transposed={self.transposed}, {self.grid_repr()}"


def _halved(codes: Tensor) -> Tensor:
    """Two codes of 4 bits a byte, the first one low: ``(..., n) -> (..., n / 2)``, uint8."""
    low, high = codes[..., ::2].to(torch.int16) & 15, codes[..., 1::2].to(torch.int16) & 15
    return (low | high << 4).to(torch.uint8)


def _doubled(held: Tensor) -> Tensor:
    """Signed codes of 4 bits from bytes that hold two each: ``(..., n) -> (..., 2 n)``, int8."""
    both = torch.stack((held & 15, held >> 4), -1).flatten(-2).to(torch.int8)
    return (both ^ 8) - 8

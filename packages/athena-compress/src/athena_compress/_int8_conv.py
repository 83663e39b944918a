"""Convolutions that run in int8, transposed ones as convolutions of a stuffed input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from athena_compress._int8_layer import (
    Int8Layer,
    Quantized,
    signed_codes,
    static_codes,
    takes_kernel,
    unsigned,
)
from athena_compress._int8_math import stuffed
from athena_compress._int8_ops import int8_conv2d


class Int8Conv(Int8Layer):
    r"""A convolution over one or two axes in int8, as `int8_conv2d` computes it.

    Static if the grid of its input is given; else each image has a scale of its own, so that it depends on
    no other image. On the CPU with VNNI oneDNN's kernel does the integer product; results are in its
    memory format, channels last. One axis is computed as two, the first of length 1.

    Args:
        convolution: the float layer, for its geometry and bias.
        quantized: its weights as integers; and the grid of its input, if that is fixed.

    Shape: ``(batch, in_channels, *sides)`` or without the batch, as the float layer.
    Source: Jacob et al. 2018, arXiv:1712.05877, section 2.2. Departs from it: outputs stay floats.

    >>> from athena_compress import quantize
    >>> from torch import nn
    >>> convolution = nn.Conv2d(3, 4, 3, padding=1)
    >>> x = torch.randn(2, 3, 8, 8)
    >>> torch.allclose(quantize(convolution, "int8-dynamic")(x), convolution(x), atol=0.1)
    True
    """

    def __init__(self, convolution: _ConvNd, quantized: Quantized) -> None:
        axes = len(convolution.kernel_size)
        filters = quantized.weight.unsqueeze(2) if axes == 1 else quantized.weight
        super().__init__(quantized._replace(weight=filters), convolution.bias)
        self.axes = axes
        self.in_channels, self.out_channels = convolution.in_channels, convolution.out_channels
        self.groups = convolution.groups
        self.kernel_size = _two(convolution.kernel_size, 1)
        self.stride = _two(convolution.stride, 1)
        self.dilation = _two(convolution.dilation, 1)
        self.padding = (0, 0)
        self.pads, self.pad_mode = _pads(convolution)
        if self.pads is None and not isinstance(convolution.padding, str):
            self.padding = _two(convolution.padding, 0)

    @property
    def weight(self) -> Tensor:
        weight = super().weight
        return weight.squeeze(2) if self.axes == 1 else weight

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the float layer's name
        x = input if self.pads is None else F.pad(input, self.pads, mode=self.pad_mode)
        batched = x.ndim == self.axes + 2
        images = x if batched else x.unsqueeze(0)
        images = images.unsqueeze(2) if self.axes == 1 else images
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            sides = "length" if self.axes == 1 else "height, width"
            raise ValueError(
                f"`input` must have shape (batch, {self.in_channels}, {sides}), or that without the batch; "
                f"got {tuple(x.shape)}."
            )
        if not x.is_floating_point():
            raise ValueError(f"`input` must hold floats; got {x.dtype}. Use `input.float()`.")
        y = self._convolve(images)
        y = y.squeeze(2) if self.axes == 1 else y
        return y if batched else y.squeeze(0)

    def _convolve(self, x: Tensor) -> Tensor:
        if takes_kernel(x):
            return self._run(x).to(x.dtype)
        return int8_conv2d(
            x,
            self.weight_q,
            self.weight_scale,
            self.bias,
            self.input_scale,
            self.input_zero_point,
            list(self.stride),
            list(self.padding),
            list(self.dilation),
            self.groups,
        )

    def _run(self, x: Tensor) -> Tensor:
        packed = self.pack()
        if self.is_static:
            codes = static_codes(x.float(), packed.input_inverse, packed.input_zero_point)
            return self._product(unsigned(codes), packed.bias)
        codes, scale = signed_codes(x.float(), (1, 2, 3))
        y = self._product(unsigned(codes), None).mul_(scale)
        return y if packed.bias is None else y.add_(packed.bias[:, None, None])

    def _product(self, codes: Tensor, bias: Tensor | None) -> Tensor:
        packed = self.pack()
        return torch.ops.onednn.qconv_pointwise(
            codes, 1.0, packed.input_zero_point, packed.weight, packed.scale, packed.zeros, bias,
            self.stride, self.padding, self.dilation, self.groups, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip

    def _laid_out(self, scale: Tensor, zero_point: int) -> Tensor:
        return torch.ops.onednn.qconv_prepack(
            self.weight_q, scale, 1.0, zero_point, self.stride, self.padding, self.dilation, self.groups, None
        )

    def extra_repr(self) -> str:
        kind = "static" if self.is_static else "dynamic"
        shape = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        return f"{shape}, stride={self.stride}, groups={self.groups}, bias={self.bias is not None}, {kind}"


class Int8ConvTranspose(Int8Conv):
    r"""A transposed convolution over one or two axes in int8.

    It is the convolution of its input, with ``stride - 1`` zeros between neighbours, with the mirrored
    filters (Dumoulin and Visin 2016, arXiv:1603.07285, section 4): the same sums, at ``stride`` squared times
    the work, of which the zeros are a part. ``weight_q`` holds the filters mirrored,
    ``(out_channels, in_channels / groups, *kernel)``.

    Args:
        convolution: the float layer, for its geometry and bias.
        quantized: its weights as integers, mirrored; and the grid of its input, if that is fixed.

    Shape: that of the float layer; the argument ``output_size`` is not taken.

    >>> from athena_compress import quantize
    >>> from torch import nn
    >>> convolution = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1)
    >>> x = torch.randn(2, 3, 8, 8)
    >>> torch.allclose(quantize(convolution, "int8-dynamic")(x), convolution(x), atol=0.1)
    True
    """

    def __init__(self, convolution: _ConvTransposeNd, quantized: Quantized) -> None:
        super().__init__(convolution, quantized)
        self.spread = self.stride
        self.stride, self.padding = (1, 1), (0, 0)
        self.pads = _transposed_pads(convolution, self.kernel_size, self.dilation)
        self.pad_mode = "constant"

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the float layer's name
        return super().forward(stuffed(input, self.spread[-self.axes :], 0))


def _two(values: Sequence[int], filler: int) -> tuple[int, int]:
    """A layer's sizes along two axes; one axis gets another before it."""
    one, *rest = (int(value) for value in values)
    return (one, rest[0]) if rest else (filler, one)


def _pads(convolution: _ConvNd) -> tuple[list[int] | None, str]:
    """What `F.pad` is to add before a convolution without padding; None where oneDNN's own will do.

    That adds as much on either side; and it errs where a whole patch is padding, if the zero point is not
    0 (torch 2.13).
    """
    before = list(convolution._reversed_padding_repeated_twice)
    if convolution.padding_mode != "zeros":
        return before, convolution.padding_mode
    reach = [d * (k - 1) for d, k in zip(convolution.dilation, convolution.kernel_size, strict=True)]
    if isinstance(convolution.padding, str):
        return (before if any(before) else None), "constant"
    wide = any(int(pad) > most for pad, most in zip(convolution.padding, reach, strict=True))
    return (before if wide else None), "constant"


def _transposed_pads(
    convolution: _ConvTransposeNd, kernel: tuple[int, int], dilation: tuple[int, int]
) -> list[int]:
    """Pads, the last axis first; negative ones cut."""
    axes = len(convolution.kernel_size)
    around = [
        d * (k - 1) - int(p)
        for d, k, p in zip(dilation[-axes:], kernel[-axes:], convolution.padding, strict=True)
    ]
    ends = zip(around, convolution.output_padding, strict=True)
    return [side for pad, extra in reversed(list(ends)) for side in (pad, pad + int(extra))]

"""The ops of int8 layers, each with its reference in plain torch; a device plugin replaces them by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from athena_compress._grid import Grid, quantize_affine
from athena_compress._int8_math import integer_conv2d, integer_matmul, row_scales
from athena_core import op

#: Codes of a static input, whatever its zero point.
INPUT_CODES = Grid(signed=False, symmetric=False)


def _linear(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    input_scale: Tensor | None = None,
    input_zero_point: Tensor | None = None,
) -> Tensor:
    r"""A linear layer in int8: int32 sums of 8-bit products, then one scaling in float32.

    Static, with ``input_scale`` :math:`s` and ``input_zero_point`` :math:`z`, of unsigned codes
    :math:`q = \operatorname{clamp}(\operatorname{round}(x / s) + z, 0, 255)`:

    .. math:: y_{mo} = (s\, w_o) \sum_k (q_{mk} - z)\, W_{ok} + b_o

    Dynamic, without them, a scale a row, :math:`s_m = \max_k |x_{mk}| / 127`,
    :math:`q = \operatorname{round}(x / s_m)`: :math:`y_{mo} = \big(w_o \sum_k q_{mk} W_{ok}\big) s_m + b_o`.

    Halves are rounded to even; the sum is of int32 and exact; each product and sum after it is rounded once,
    in the order written. A row depends on no other row. The gradient, where wanted, is that of the float
    layer with dequantized weights (straight through).

    Shape: ``x (..., terms)``, ``weight (outputs, terms)`` int8, ``weight_scale (outputs,)`` float32, ``bias
    (outputs,)`` -> ``(..., outputs)`` in the dtype of ``x``.
    Source: Jacob et al. 2018, arXiv:1712.05877, equations 7 and 8. Departs from it: outputs stay floats.

    >>> weight = torch.tensor([[1, -2]], dtype=torch.int8)
    >>> int8_linear(torch.tensor([[127.0, 0.0]]), weight, torch.tensor([0.5]))
    tensor([[63.5000]])
    """
    rows, total, scale = _codes(x.reshape(-1, x.shape[-1]), row_scales, input_scale, input_zero_point)
    product = integer_matmul(rows, weight)
    if total is not None:
        product = product + total * weight.sum(1, dtype=torch.int32)
    y = _scaled(product, weight_scale, scale, static=input_scale is not None)
    y = (y if bias is None else y + bias).to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])
    return _straight_through(
        y, (x, weight_scale), lambda: F.linear(x, _dequantized(weight, weight_scale, x), _as(bias, x))
    )


def _conv2d(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    input_scale: Tensor | None = None,
    input_zero_point: Tensor | None = None,
    stride: list[int] = [1, 1],  # noqa: B006  a schema's default, which nobody changes
    padding: list[int] = [0, 0],  # noqa: B006
    dilation: list[int] = [1, 1],  # noqa: B006
    groups: int = 1,
) -> Tensor:
    r"""A convolution in int8, as `int8_linear` over patches; dynamic scales are one an image.

    Shape: ``x (batch, channels, height, width)``, ``weight (outputs, channels / groups, *kernel)`` int8,
    ``weight_scale (outputs,)`` -> ``(batch, outputs, height', width')`` in the dtype of ``x``. Padding is
    with 0.

    >>> weight = torch.ones(1, 1, 2, 2, dtype=torch.int8)
    >>> int8_conv2d(torch.full((1, 1, 2, 2), 127.0), weight, torch.tensor([0.5]))
    tensor([[[[254.]]]])
    """
    wide, total, scale = _codes(x, _image_scales, input_scale, input_zero_point)
    product = integer_conv2d(wide, weight, stride, padding, dilation, groups)
    if total is not None:
        # padding holds zeros, which have no zero point to take off: so the correction is a convolution too
        ones = torch.ones_like(wide[:1])
        product = product + total * integer_conv2d(ones, weight, stride, padding, dilation, groups)
    y = _scaled(product, weight_scale[:, None, None], scale, static=input_scale is not None)
    y = (y if bias is None else y + bias[:, None, None]).to(x.dtype)

    def plain() -> Tensor:
        filters = _dequantized(weight, weight_scale, x)
        return F.conv2d(x, filters, _as(bias, x), stride, padding, dilation, groups)

    return _straight_through(y, (x, weight_scale), plain)


def _codes(
    x: Tensor, scales: Callable[[Tensor], Tensor], scale: Tensor | None, zero_point: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Integers of the input around 0, what to add times the weights' sum, and the scale."""
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if scale is None or zero_point is None:
        scale = scales(wide)
        return (wide * scale.reciprocal()).round().to(torch.int8), None, scale
    # unsigned codes less 128 are signed bytes: (q - z) = (q - 128) + (128 - z)
    codes = (quantize_affine(wide, scale, zero_point, INPUT_CODES).to(torch.int16) - 128).to(torch.int8)
    return codes, (128 - zero_point).to(torch.int32), scale


def _scaled(product: Tensor, weight_scale: Tensor, scale: Tensor, *, static: bool) -> Tensor:
    if static:
        return product * (scale * weight_scale)
    return product * weight_scale * scale


def _image_scales(x: Tensor) -> Tensor:
    return row_scales(x.flatten(1))[:, :, None, None]


def _dequantized(weight: Tensor, scale: Tensor, like: Tensor) -> Tensor:
    return weight.to(like.dtype) * scale.to(like.dtype).view(-1, *[1] * (weight.ndim - 1))


def _as(bias: Tensor | None, like: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(like.dtype)


def _straight_through(y: Tensor, inputs: tuple[Tensor, ...], plain: Callable[[], Tensor]) -> Tensor:
    """``y``, with the gradient of the layer whose weights are dequantized and whose input is not rounded."""
    wanted = torch.is_grad_enabled() and any(one.requires_grad for one in inputs)
    if not (wanted or forward_ad._current_level >= 0):
        return y
    smooth = plain()
    return smooth + (y - smooth).detach()


def _linear_samples(device: str, dtype: torch.dtype, generator: torch.Generator) -> Iterator[tuple[Any, ...]]:
    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    for rows, terms, outputs in ((1, 8, 4), (3, 7, 5), (0, 4, 4), (33, 64, 16), (2, 1, 3), (5, 300, 130)):
        weight = torch.randint(-127, 128, (outputs, terms), generator=generator).to(device, torch.int8)
        scale = torch.rand(outputs, generator=generator).to(device) + 0.1
        bias = drawn(outputs)
        yield drawn(rows, terms), weight, scale, bias
        yield drawn(2, rows, terms)[:, ::2], weight, scale, None
        step, zero = torch.tensor(0.05, device=device), torch.tensor(119, dtype=torch.int32, device=device)
        yield drawn(rows, terms), weight, scale, bias, step, zero


def _conv_samples(device: str, dtype: torch.dtype, generator: torch.Generator) -> Iterator[tuple[Any, ...]]:
    for batch, channels, outputs, groups, stride in ((1, 3, 4, 1, 1), (2, 4, 4, 4, 2), (0, 2, 2, 1, 1)):
        x = torch.randn(batch, channels, 7, 6, generator=generator).to(device, dtype)
        shape = (outputs, channels // groups, 3, 3)
        weight = torch.randint(-127, 128, shape, generator=generator).to(device, torch.int8)
        scale = torch.rand(outputs, generator=generator).to(device) + 0.1
        options = ([stride, stride], [1, 1], [1, 1], groups)
        yield x, weight, scale, None, None, None, *options
        step, zero = torch.tensor(0.05, device=device), torch.tensor(119, dtype=torch.int32, device=device)
        yield x, weight, scale, scale.to(dtype), step, zero, *options


int8_linear = op(
    "athena_compress::int8_linear(Tensor x, Tensor weight, Tensor weight_scale, Tensor? bias=None, "
    "Tensor? input_scale=None, Tensor? input_zero_point=None) -> Tensor",
    reference=_linear,
    samples=_linear_samples,
)

int8_conv2d = op(
    "athena_compress::int8_conv2d(Tensor x, Tensor weight, Tensor weight_scale, Tensor? bias=None, "
    "Tensor? input_scale=None, Tensor? input_zero_point=None, int[2] stride=[1, 1], "
    "int[2] padding=[0, 0], int[2] dilation=[1, 1], int groups=1) -> Tensor",
    reference=_conv2d,
    samples=_conv_samples,
)

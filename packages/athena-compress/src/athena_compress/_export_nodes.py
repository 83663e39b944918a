"""What int8 layers become in ONNX: QuantizeLinear and DequantizeLinear around their products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from athena_core import op

# Types of ONNX by number, as its nodes take them.
_FLOAT, _UINT8, _INT8 = 1, 2, 3


def _dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    shape = (-1, *[1] * (codes.ndim - 1))
    wide = codes.to(torch.float32)
    if zero_point is not None:
        wide = wide - zero_point.view(shape)
    return wide * scale.view(shape)


dequantize_rows = op(
    "athena_compress::dequantize_rows(Tensor codes, Tensor scale, Tensor? zero_point=None) -> Tensor",
    reference=_dequantize,
)
r"""Floats of integers with a scale an entry of the first axis, :math:`s_i (q_i - z_i)`; in ONNX, one node.

Shape: ``codes (rows, ...)`` int8 or uint8, ``scale (rows,)``, ``zero_point (rows,)`` -> ``(rows, ...)``,
float32.
"""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions that write the ops of int8 layers as nodes of ONNX. Needs onnxscript."""
    import athena_compress._int8_ops  # noqa: F401  which defines them

    ops = torch.ops.athena_compress
    return {
        ops.int8_linear.default: _linear,
        ops.int8_conv2d.default: _conv2d,
        ops.dequantize_rows.default: _dequantized,
    }


def _linear(
    x: Any,
    weight: Any,
    weight_scale: Any,
    bias: Any = None,
    input_scale: Any = None,
    input_zero_point: Any = None,
) -> Any:
    onnx = _nodes()
    wide = onnx.Cast(x, to=_FLOAT)
    if input_scale is None:
        scale = _largest(wide, [-1])
        codes = onnx.Cast(_whole(wide, scale), to=_INT8)
        product = onnx.MatMulInteger(codes, onnx.Transpose(weight, perm=[1, 0]))
        y = onnx.Mul(onnx.Mul(onnx.Cast(product, to=_FLOAT), weight_scale), scale)
    else:
        seen = _rounded(wide, input_scale, input_zero_point)
        columns = onnx.Transpose(weight, perm=[1, 0])
        y = onnx.MatMul(seen, onnx.DequantizeLinear(columns, weight_scale, axis=1))
    return _biased(y, bias, x)


def _conv2d(
    x: Any,
    weight: Any,
    weight_scale: Any,
    bias: Any = None,
    input_scale: Any = None,
    input_zero_point: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Any:
    onnx = _nodes()
    geometry = {
        "strides": list(stride),
        "pads": [*padding, *padding],
        "dilations": list(dilation),
        "group": groups,
    }
    wide = onnx.Cast(x, to=_FLOAT)
    if input_scale is None:
        scale = _largest(wide, [1, 2, 3])
        # unsigned, as runtimes have no product of two signed bytes here
        codes = onnx.Cast(onnx.Add(_whole(wide, scale), _constant(128.0)), to=_UINT8)
        product = onnx.ConvInteger(codes, weight, _constant(128, torch.uint8), **geometry)
        y = onnx.Mul(onnx.Mul(onnx.Cast(product, to=_FLOAT), _per_channel(weight_scale)), scale)
    else:
        filters = onnx.DequantizeLinear(weight, weight_scale, axis=0)
        y = onnx.Conv(_rounded(wide, input_scale, input_zero_point), filters, **geometry)
    return _biased(y, None if bias is None else _per_channel(bias), x)


def _dequantized(codes: Any, scale: Any, zero_point: Any = None) -> Any:
    onnx = _nodes()
    if zero_point is None:
        return onnx.DequantizeLinear(codes, scale, axis=0)
    return onnx.DequantizeLinear(codes, scale, onnx.CastLike(zero_point, codes), axis=0)


def _rounded(x: Any, scale: Any, zero_point: Any) -> Any:
    """The values of a fixed grid of unsigned bytes that are nearest to ``x``."""
    onnx = _nodes()
    zero_point = onnx.Cast(zero_point, to=_UINT8)
    return onnx.DequantizeLinear(onnx.QuantizeLinear(x, scale, zero_point), scale, zero_point)


def _largest(x: Any, axes: list[int]) -> Any:
    r"""Scales of symmetric grids, :math:`\max |x| / 127` over ``axes``."""
    onnx = _nodes()
    largest = onnx.ReduceMax(onnx.Abs(x), _constant(axes, torch.int64), keepdims=1)
    return onnx.Max(onnx.Div(largest, _constant(127.0)), _constant(torch.finfo(torch.float32).tiny))


def _whole(x: Any, scale: Any) -> Any:
    """Whole numbers of a symmetric grid, halves to even, by the inverse of the scale as in torch."""
    onnx = _nodes()
    return onnx.Round(onnx.Mul(x, onnx.Reciprocal(scale)))


def _biased(y: Any, bias: Any, like: Any) -> Any:
    """The end of a layer: the bias in float32, and the dtype of the input."""
    onnx = _nodes()
    return onnx.CastLike(y if bias is None else onnx.Add(y, onnx.Cast(bias, to=_FLOAT)), like)


def _per_channel(values: Any) -> Any:
    return _nodes().Reshape(values, _constant([-1, 1, 1], torch.int64))


def _constant(value: Any, dtype: torch.dtype = torch.float32) -> Any:
    import onnx.numpy_helper

    return _nodes().Constant(value=onnx.numpy_helper.from_array(torch.tensor(value, dtype=dtype).numpy()))


def _nodes() -> Any:
    from onnxscript import opset18

    return opset18

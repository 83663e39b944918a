"""Linear layers in int8: rows are rounded to codes, and scales are applied where the sums are written.

Two launches: the first reads ``x`` once and writes its codes, a byte each, with a scale a row; the second
multiplies them with the weights on the matrix unit, sums in int32, and writes the result. With a fixed grid
of the input there is a third, of the weights' sums. Roundings are those of the reference, in its order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from athena_core import backend
from athena_xpu._caps import XPUCaps
from athena_xpu._launch_limits import fitting
from athena_xpu.kernels._int8_codes import EXACT, quantized, weight_sums
from athena_xpu.kernels._launch import DTYPES, launch

_INTEGERS = frozenset({torch.int32, torch.int64, torch.uint8, torch.int8})


def supports(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    input_scale: Tensor | None = None,
    input_zero_point: Tensor | None = None,
) -> bool:
    if x.dtype not in DTYPES or weight.dtype != torch.int8 or weight_scale.dtype != torch.float32:
        return False
    if x.ndim == 0 or weight.ndim != 2 or weight_scale.ndim != 1:
        return False
    outputs, terms = weight.shape
    if not x.shape[-1] == terms > 0 or weight_scale.numel() != outputs:
        return False
    if bias is not None and (bias.ndim != 1 or bias.numel() != outputs or bias.dtype not in DTYPES):
        return False
    device = x.device
    for one in (weight, weight_scale, bias, input_scale, input_zero_point):
        if one is not None and (one.device != device or not one.is_contiguous()):
            return False
    if input_scale is None or input_zero_point is None:
        return input_scale is None and input_zero_point is None
    numbers = input_scale.numel() == input_zero_point.numel() == 1 and input_scale.ndim < 2
    return numbers and input_scale.dtype == torch.float32 and input_zero_point.dtype in _INTEGERS


def run(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    input_scale: Tensor | None = None,
    input_zero_point: Tensor | None = None,
) -> Tensor:
    outputs, terms = weight.shape
    y = x.new_empty(*x.shape[:-1], outputs)
    if not y.numel():
        return y
    rows = x.reshape(-1, terms)
    rows = rows if rows.stride(1) == 1 or terms == 1 else rows.contiguous()
    codes, scale = quantized(rows, input_scale, input_zero_point)
    sums = None if input_scale is None else weight_sums(weight)
    count = rows.shape[0]
    launch(
        _multiply,
        lambda meta: (triton.cdiv(count, meta["BLOCK_M"]) * triton.cdiv(outputs, meta["BLOCK_N"]),),
        *(codes, weight, scale, weight_scale, bias, sums, input_zero_point, y),
        *(count, outputs, terms, codes.stride(0)),
        ROWS=_near(count),
        STATIC=input_scale is not None,
        on=y,
        **EXACT,
    )
    return y


def _config(tall: int, wide: int, deep: int, warps: int, stages: int) -> triton.Config:
    blocks = {"BLOCK_M": tall, "BLOCK_N": wide, "BLOCK_K": deep}
    return triton.Config(blocks, num_warps=warps, num_stages=stages)


# Tiles of the result, terms a step, warps, stages. The first suits an H100, the last any device.
_CONFIGS = [
    _config(128, 256, 128, 8, 3),
    _config(128, 128, 128, 8, 4),
    _config(128, 128, 64, 4, 4),
    _config(64, 128, 64, 4, 4),
    _config(16, 64, 128, 4, 4),
    _config(32, 64, 128, 4, 2),
]


def _near(rows: int) -> int:
    """What a configuration is chosen for: few rows, as in decoding, or many."""
    return next((most for most in (16, 64, 512) if rows <= most), 4096)


def _stage_bytes(config: triton.Config) -> int:
    """Local memory of the two tiles that one step multiplies."""
    sides = config.kwargs["BLOCK_M"] + config.kwargs["BLOCK_N"]
    return sides * config.kwargs["BLOCK_K"]


def _fitting(configs: list[triton.Config], named: dict[str, Any], **meta: Any) -> list[triton.Config]:
    """Those that suit the number of rows and fit the device; Triton itself tells CUDA's limits."""
    device = named["y"].device
    caps = backend(device).caps(device.index or 0)
    suiting = [one for one in configs if one.kwargs["BLOCK_M"] <= max(32, meta["ROWS"])]
    return fitting(suiting, caps, shared=_stage_bytes) if isinstance(caps, XPUCaps) else suiting


@triton.autotune(
    configs=_CONFIGS[-1:] if knobs.runtime.interpret else _CONFIGS,
    key=["outputs", "terms", "ROWS"],
    prune_configs_by={"early_config_prune": _fitting},
)
@triton.jit
def _multiply(
    codes,
    weight,
    scale,
    weight_scale,
    bias,
    sums,
    zero_point,
    y,
    rows,
    outputs,
    terms,
    stride,
    ROWS: tl.constexpr,  # noqa: ARG001  of which a configuration is chosen
    STATIC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # Programs that run together take a square of tiles, eight high, so that they share what the cache holds.
    down, across = tl.cdiv(rows, BLOCK_M), tl.cdiv(outputs, BLOCK_N)
    band = tl.program_id(0) // (8 * across)
    high = tl.minimum(8, down - 8 * band)
    within = tl.program_id(0) % (8 * across)
    row = (8 * band + within % high) * BLOCK_M + tl.arange(0, BLOCK_M)
    output = (within // high) * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows and outputs beyond the last repeat it: their sums are not stored.
    left = codes + tl.minimum(row, rows - 1).to(tl.int64)[:, None] * stride
    right = weight + tl.minimum(output, outputs - 1).to(tl.int64)[None, :] * terms
    term = tl.arange(0, BLOCK_K)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.int32)
    for begin in range(0, terms, BLOCK_K):
        inside = begin + term < terms
        a = tl.load(left + (begin + term)[None, :], mask=inside[None, :], other=0)
        b = tl.load(right + (begin + term)[:, None], mask=inside[:, None], other=0)
        total = tl.dot(a, b, total, out_dtype=tl.int32)
    width = tl.load(weight_scale + output, mask=output < outputs, other=0.0)[None, :]
    if STATIC:
        shift = 128 - tl.load(zero_point).to(tl.int32)
        total += shift * tl.load(sums + output, mask=output < outputs, other=0)[None, :]
        result = total.to(tl.float32) * (tl.load(scale) * width)
    else:
        height = tl.load(scale + row, mask=row < rows, other=0.0)[:, None]
        result = total.to(tl.float32) * width * height
    if bias is not None:
        result += tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    place = y + row.to(tl.int64)[:, None] * outputs + output[None, :]
    tl.store(place, result, mask=(row < rows)[:, None] & (output < outputs)[None, :])


class Formula:
    """The gradient of the float layer with dequantized weights, as the reference's."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, weight, weight_scale, bias, input_scale, _ = inputs
        ctx.save_for_backward(x, weight, weight_scale, bias, input_scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, weight_scale, bias, input_scale = ctx.saved_tensors
        needs = ctx.needs_input_grad
        dx = dscale = dbias = dstep = None
        if needs[0]:
            dx = grad @ (weight.to(x.dtype) * weight_scale.to(x.dtype)[:, None])
        if needs[2]:
            slope = grad.reshape(-1, grad.shape[-1]).float().mT @ x.reshape(-1, x.shape[-1]).float()
            dscale = (slope * weight).sum(1)
        if bias is not None and needs[3]:
            dbias = grad.reshape(-1, grad.shape[-1]).sum(0).to(bias.dtype)
        if input_scale is not None and needs[4]:
            dstep = torch.zeros_like(input_scale)
        return dx, None, dscale, dbias, dstep, None

"""Rows of floats rounded to int8, with a scale a row or a given grid: read once, a byte a term written."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from athena_xpu.kernels._launch import launch

_MOST = 16384  # terms of a row that are read once; longer rows are read twice, the second time from a cache
#: As the reference rounds each product and sum, none may be joined to a fused multiply-add.
EXACT = {"enable_fp_fusion": False}
_TINY: tl.constexpr = tl.constexpr(torch.finfo(torch.float32).tiny)


def quantized(rows: Tensor, scale: Tensor | None, zero_point: Tensor | None) -> tuple[Tensor, Tensor]:
    """Codes of rows, around 128 less if the grid is given; and their scales, or the given one."""
    count, terms = rows.shape
    codes = torch.empty(count, -(-terms // 16) * 16, dtype=torch.int8, device=rows.device)
    static = scale is not None
    if scale is None:
        scale = torch.empty(count, dtype=torch.float32, device=rows.device)
    tall, block, warps = _tile(count, terms)
    launch(
        _quantize,
        (triton.cdiv(count, tall),),
        *(rows, codes, scale, zero_point, count, terms, rows.stride(0), codes.stride(0)),
        TALL=tall,
        BLOCK=block,
        ONCE=terms <= block,
        STATIC=static,
        num_warps=warps,
        on=rows,
        **EXACT,
    )
    return codes, scale


def _tile(rows: int, terms: int) -> tuple[int, int, int]:
    """Rows and terms that one program takes, and its warps: short rows are taken several at once."""
    block = max(16, min(_MOST, triton.next_power_of_2(terms)))
    tall = min(max(1, 2048 // block), triton.next_power_of_2(rows))
    return tall, block, max(1, min(16, tall * block // 512))


def weight_sums(weight: Tensor) -> Tensor:
    """The sum of each output's weights, int32."""
    outputs, terms = weight.shape
    sums = torch.empty(outputs, dtype=torch.int32, device=weight.device)
    tall, block, warps = _tile(outputs, terms)
    grid = (triton.cdiv(outputs, tall),)
    launch(
        _sum_weights, grid, weight, sums, outputs, terms, TALL=tall, BLOCK=block, num_warps=warps, on=weight
    )
    return sums


@triton.jit
def _rounded(x):
    """The nearest integer, halves to the even one; for numbers below 2^22 in size."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def _sizes(values):
    """Bits of the sizes of floats, which are ordered as they are; those of NaN are the largest."""
    return values.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _quantize(
    x,
    codes,
    scale,
    zero_point,
    rows,
    terms,
    stride,
    codes_stride,
    TALL: tl.constexpr,
    BLOCK: tl.constexpr,
    ONCE: tl.constexpr,
    STATIC: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * TALL + tl.arange(0, TALL)
    at = tl.arange(0, BLOCK)
    here = (row < rows)[:, None]
    inside = here & (at < terms)[None, :]
    left = x + row[:, None] * stride + at[None, :]
    right = codes + row[:, None] * codes_stride + at[None, :]
    values = tl.load(left, mask=inside, other=0.0).to(tl.float32)
    if STATIC:
        inverse = tl.div_rn(1.0, tl.load(scale))
        zero = tl.load(zero_point).to(tl.float32)
    else:
        largest = tl.max(_sizes(values), axis=1)
        if not ONCE:
            for begin in range(BLOCK, terms, BLOCK):
                more = tl.load(left + begin, mask=here & (begin + at < terms)[None, :], other=0.0)
                largest = tl.maximum(largest, tl.max(_sizes(more.to(tl.float32)), axis=1))
        largest = largest.to(tl.float32, bitcast=True)  # pyright: ignore[reportAttributeAccessIssue]
        step = tl.div_rn(largest, 127.0)
        step = tl.where(step < _TINY, _TINY, step)
        tl.store(scale + row, step, mask=row < rows)
        inverse = tl.div_rn(1.0, step)[:, None]
        zero = 0.0
    _store_codes(right, values, inverse, zero, inside, STATIC)
    if not ONCE:
        for begin in range(BLOCK, terms, BLOCK):
            inside = here & (begin + at < terms)[None, :]
            more = tl.load(left + begin, mask=inside, other=0.0).to(tl.float32)
            _store_codes(right + begin, more, inverse, zero, inside, STATIC)


@triton.jit
def _store_codes(place, values, inverse, zero, inside, STATIC: tl.constexpr):
    # Bounded before it is rounded, far outside all codes; NaN, which has no code, becomes a number.
    bounded = tl.minimum(tl.maximum(values * inverse, -1024.0), 1024.0)
    if STATIC:  # unsigned codes less 128 are signed bytes
        rounded = tl.minimum(tl.maximum(_rounded(bounded) + zero, 0.0), 255.0) - 128.0
    else:
        rounded = tl.minimum(tl.maximum(_rounded(bounded), -127.0), 127.0)
    tl.store(place, rounded.to(tl.int8), mask=inside)


@triton.jit
def _sum_weights(weight, sums, outputs, terms, TALL: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * TALL + tl.arange(0, TALL)
    here = (row < outputs)[:, None]
    total = tl.zeros([TALL, BLOCK], tl.int32)
    for begin in range(0, terms, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        inside = here & (at < terms)[None, :]
        total += tl.load(weight + row[:, None] * terms + at[None, :], mask=inside, other=0).to(tl.int32)
    tl.store(sums + row, tl.sum(total, axis=1), mask=row < outputs)

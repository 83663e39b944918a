"""Rotary positions: one read and one write of x, in the order in which its rows lie in memory."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from math import prod
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from athena_xpu.kernels._launch import DTYPES, backward_op, launch

_MOST = 2048  # elements of a tile, and of a row


def supports(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> bool:  # noqa: ARG001
    shape, angles = x.shape, cos.shape
    return (
        x.dtype in DTYPES
        and x.dtype == cos.dtype == sin.dtype
        and x.device == cos.device == sin.device
        and 0 < len(angles) <= len(shape) <= 4
        and angles == sin.shape
        and 0 < 2 * angles[-1] <= shape[-1] <= _MOST
        and x.stride(-1) == 1
        and x.numel() <= 2**30 * shape[-1]  # rows, the last tile's too, are counted in 32 bits
        and (angles[:-1] == shape[-len(angles) : -1] or _spread(angles, shape))
    )


def _spread(angles: torch.Size, shape: torch.Size) -> bool:
    """Whether the angles are spread over x's leading axes, and x not over theirs."""
    return all(a in (1, b) for a, b in zip(angles[-2::-1], shape[-2::-1], strict=False))


def run(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    return _turned(x, cos, sin, interleaved, inverse=False)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, *, inverse: bool) -> Tensor:
    y = _like(x, cos)
    if y.numel():
        grid, numbers, meta = _plan(x.shape, x.stride(), y.stride(), cos.shape)
        tensors = x, y, cos.contiguous(), sin.contiguous()
        launch(_turn, grid, *tensors, *numbers, INTERLEAVED=interleaved, INVERSE=inverse, **meta, on=x)
    return y


def _like(x: Tensor, cos: Tensor) -> Tensor:
    """An empty result, laid out as the reference lays it out."""
    return torch.empty_like(x) if x.shape[-1] == 2 * cos.shape[-1] else x.new_empty(x.shape)


@lru_cache(1024)
def _plan(
    shape: tuple[int, ...], of_x: tuple[int, ...], of_y: tuple[int, ...], angles: tuple[int, ...]
) -> tuple[tuple[int], tuple[int, ...], dict[str, int]]:
    """Grid, numbers and constants of a launch: three leading axes, the last the nearest in memory."""
    width, pairs = shape[-1], angles[-1]
    order = sorted((a for a in range(len(shape) - 1) if shape[a] > 1), key=of_x.__getitem__, reverse=True)
    missing = 3 - len(order)
    sizes = [1] * missing + [shape[a] for a in order]
    every = (of_x, of_y, _shared_strides(angles, len(shape)))
    strides = [[0] * missing + [one[a] for a in order] for one in every]
    rows = prod(sizes)
    columns = triton.next_power_of_2(pairs)
    tall = min(triton.next_power_of_2(rows), max(1, _MOST // (2 * columns)))
    rest = width - 2 * pairs
    meta = {
        "ROWS": tall,
        "PAIRS": columns,
        "REST": triton.next_power_of_2(rest) if rest else 0,
        "num_warps": max(1, min(4, tall * columns // 128)),
    }
    return (triton.cdiv(rows, tall),), (rows, *sizes[1:], *chain(*strides), pairs, width), meta


def _shared_strides(sizes: tuple[int, ...], ndim: int) -> list[int]:
    """Strides of a contiguous tensor when it is spread over so many axes: 0 where it has but one entry."""
    strides, stride = [0] * ndim, 1
    for axis, size in zip(range(ndim - 1, -1, -1), reversed(sizes), strict=False):
        strides[axis] = stride if size > 1 else 0
        stride *= size
    return strides


@triton.jit
def _turn(
    x,
    y,
    cosines,
    sines,
    rows,
    n1,
    n2,
    x0,
    x1,
    x2,
    y0,
    y1,
    y2,
    angle0,
    angle1,
    angle2,
    pairs,
    width,
    INTERLEAVED: tl.constexpr,
    INVERSE: tl.constexpr,
    ROWS: tl.constexpr,
    PAIRS: tl.constexpr,
    REST: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    i0 = (row // n2 // n1).to(tl.int64)
    i1 = (row // n2 % n1).to(tl.int64)
    i2 = (row % n2).to(tl.int64)
    x += i0 * x0 + i1 * x1 + i2 * x2
    y += i0 * y0 + i1 * y1 + i2 * y2
    angle = i0 * angle0 + i1 * angle1 + i2 * angle2
    pair = tl.arange(0, PAIRS)[None, :]
    inside = (row < rows) & (pair < pairs)
    cos = tl.load(cosines + angle + pair, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(sines + angle + pair, mask=inside, other=0.0).to(tl.float32)
    if INVERSE:
        sin = -sin
    if INTERLEAVED:
        column = tl.arange(0, 2 * PAIRS)[None, :]
        within = (row < rows) & (column < 2 * pairs)
        both = tl.load(x + column, mask=within, other=0.0).to(tl.float32)
        a, b = tl.split(both.reshape(ROWS, PAIRS, 2))
        turned = tl.join(a * cos - b * sin, b * cos + a * sin).reshape(ROWS, 2 * PAIRS)
        tl.store(y + column, turned, mask=within)
    else:
        a = tl.load(x + pair, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(x + pairs + pair, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + pair, a * cos - b * sin, mask=inside)
        tl.store(y + pairs + pair, b * cos + a * sin, mask=inside)
    if REST:
        column = 2 * pairs + tl.arange(0, REST)[None, :]
        within = (row < rows) & (column < width)
        tl.store(y + column, tl.load(x + column, mask=within), mask=within)


def _run_backward(grad: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    return _turned(grad, cos, sin, interleaved, inverse=True)


rotary_backward = backward_op(
    "rotary_backward(Tensor grad, Tensor cos, Tensor sin, bool interleaved) -> Tensor",
    _run_backward,
    lambda grad, cos, *_: _like(grad if grad.stride(-1) == 1 else grad.contiguous(), cos),
)


def _for_angles(grad: Tensor, x: Tensor, cos: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    """Gradients of cosines and sines, which few ask for: summed in float32 over all rows that share them."""
    shape = (cos.shape[-1], 2) if interleaved else (2, cos.shape[-1])
    axis = -1 if interleaved else -2
    turned = (one[..., : 2 * cos.shape[-1]].float().unflatten(-1, shape) for one in (grad, x))
    (g_a, g_b), (a, b) = (one.unbind(axis) for one in turned)
    for_cos, for_sin = g_a * a + g_b * b, g_b * a - g_a * b
    return for_cos.sum_to_size(cos.shape).to(cos.dtype), for_sin.sum_to_size(cos.shape).to(cos.dtype)


class Formula:
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, cos, sin, ctx.interleaved = inputs
        ctx.save_for_backward(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, cos, sin = ctx.saved_tensors
        for_x = rotary_backward(grad, cos, sin, ctx.interleaved) if ctx.needs_input_grad[0] else None
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return for_x, None, None, None
        return for_x, *_for_angles(grad, x, cos, ctx.interleaved), None

"""The kernels of all norms: with or without a mean, a bias, and a residual that is added first.

`whole` and `walk` take the same arguments, as do their backward passes.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load(x, residual, weight, row, column, stride_x, stride_r, inside):
    """Load values in float32, the sum rounded as the stored one is; its dtype is the weight's."""
    value = tl.load(x + row * stride_x + column, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        value += tl.load(residual + row * stride_r + column, mask=inside, other=0.0).to(tl.float32)
        value = value.to(weight.dtype.element_ty).to(tl.float32)
    return value


@triton.jit
def _normalise(value, inside, width, eps, CENTRED: tl.constexpr):
    """Normalise whole rows; return them, zeros outside, and the inverse deviation of each."""
    if CENTRED:
        value = tl.where(inside, value - tl.sum(value, 1, keep_dims=True) / width, 0.0)
        # What is left is small, and its own mean mends the rounding of the first.
        shift = tl.sum(value, 1, keep_dims=True) / width
        square = tl.sum(value * value, 1, keep_dims=True) / width - shift * shift
        value -= shift
    else:
        square = tl.sum(value * value, 1, keep_dims=True) / width
    inverse = tl.rsqrt(square + eps)
    return tl.where(inside, value * inverse, 0.0), inverse


@triton.jit
def whole(
    x, residual, total, weight, bias, y, n_rows, width, stride_x, stride_r, eps,
    CENTRED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows that fit into registers, ROWS at a time: one read, one write."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < n_rows) & (column < width)
    value = _load(x, residual, weight, row, column, stride_x, stride_r, inside)
    if residual is not None:
        tl.store(total + row * width + column, value, mask=inside)
    normed, _ = _normalise(value, inside, width, eps, CENTRED)
    normed *= tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    if bias is not None:
        normed += tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)
    tl.store(y + row * width + column, normed, mask=inside)


@triton.jit
def whole_backward(
    grad, grad_sum, x, residual, weight, dx, dresidual, dweight, dbias, n_rows, width, stride_x, stride_r,
    eps, per_program, CENTRED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of ``per_program`` rows, and this program's share of those of weight and bias."""
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)[None, :]
    gain = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    for_weight = tl.zeros([ROWS, BLOCK], tl.float32)
    for_bias = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, per_program, ROWS):
        row = program * per_program + start + tl.arange(0, ROWS)[:, None]
        inside = (row < n_rows) & (column < width)
        value = _load(x, residual, weight, row, column, stride_x, stride_r, inside)
        normed, inverse = _normalise(value, inside, width, eps, CENTRED)
        slope = tl.load(grad + row * width + column, mask=inside, other=0.0).to(tl.float32)
        for_weight += slope * normed
        if dbias is not None:
            for_bias += slope
        slope *= gain
        change = slope - normed * (tl.sum(slope * normed, 1, keep_dims=True) / width)
        if CENTRED:
            change -= tl.sum(slope, 1, keep_dims=True) / width
        change *= inverse
        if grad_sum is not None:
            change += tl.load(grad_sum + row * width + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + row * width + column, change, mask=inside)
        if dresidual is not None:
            tl.store(dresidual + row * width + column, change, mask=inside)
    column = tl.arange(0, BLOCK)
    tl.store(dweight + program * width + column, tl.sum(for_weight, 0), mask=column < width)
    if dbias is not None:
        tl.store(dbias + program * width + column, tl.sum(for_bias, 0), mask=column < width)


@triton.jit
def _statistics(
    x, residual, weight, row, width, stride_x, stride_r, eps, CENTRED: tl.constexpr, BLOCK: tl.constexpr
):
    """Return the mean of one wide row, what rounding has left of it, and the inverse deviation."""
    mean = 0.0
    shift = 0.0
    if CENTRED:
        added = tl.zeros([BLOCK], tl.float32)
        for start in range(0, width, BLOCK):
            column = start + tl.arange(0, BLOCK)
            added += _load(x, residual, weight, row, column, stride_x, stride_r, column < width)
        mean = tl.sum(added, 0) / width
    left = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = _load(x, residual, weight, row, column, stride_x, stride_r, column < width)
        value = tl.where(column < width, value - mean, 0.0)
        left += value
        squares += value * value
    square = tl.sum(squares, 0) / width
    if CENTRED:
        shift = tl.sum(left, 0) / width
        square -= shift * shift
    return mean, shift, tl.rsqrt(square + eps)


@triton.jit
def walk(
    x, residual, total, weight, bias, y, n_rows, width, stride_x, stride_r, eps,  # noqa: ARG001
    CENTRED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,  # noqa: ARG001
):  # fmt: skip
    """A row wider than `whole` takes: read again from the cache, once its statistics are known."""
    row = tl.program_id(0).to(tl.int64)
    mean, shift, inverse = _statistics(
        x, residual, weight, row, width, stride_x, stride_r, eps, CENTRED, BLOCK
    )
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < width
        value = _load(x, residual, weight, row, column, stride_x, stride_r, inside)
        if residual is not None:
            tl.store(total + row * width + column, value, mask=inside)
        normed = (
            (value - mean - shift) * inverse * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        )
        if bias is not None:
            normed += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + row * width + column, normed, mask=inside)


@triton.jit
def walk_backward(
    grad, grad_sum, x, residual, weight, dx, dresidual, dweight, dbias, n_rows, width, stride_x, stride_r,
    eps, per_program, CENTRED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,  # noqa: ARG001
):  # fmt: skip
    """As `whole_backward`; its share of the weight's gradient is kept in memory, which starts as zeros."""
    program = tl.program_id(0).to(tl.int64)
    first = program * per_program
    for row in range(first, tl.minimum(first + per_program, n_rows)):
        mean, shift, inverse = _statistics(
            x, residual, weight, row, width, stride_x, stride_r, eps, CENTRED, BLOCK
        )
        along = tl.zeros([BLOCK], tl.float32)
        slopes = tl.zeros([BLOCK], tl.float32)
        for start in range(0, width, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < width
            value = _load(x, residual, weight, row, column, stride_x, stride_r, inside)
            normed = tl.where(inside, (value - mean - shift) * inverse, 0.0)
            slope = tl.load(grad + row * width + column, mask=inside, other=0.0).to(tl.float32)
            share = dweight + program * width + column
            tl.store(share, tl.load(share, mask=inside, other=0.0) + slope * normed, mask=inside)
            if dbias is not None:
                share = dbias + program * width + column
                tl.store(share, tl.load(share, mask=inside, other=0.0) + slope, mask=inside)
            slope *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
            along += slope * normed
            slopes += slope
        tilt = tl.sum(along, 0) / width
        level = tl.sum(slopes, 0) / width if CENTRED else 0.0
        for start in range(0, width, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < width
            value = _load(x, residual, weight, row, column, stride_x, stride_r, inside)
            slope = tl.load(grad + row * width + column, mask=inside, other=0.0).to(tl.float32)
            slope *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
            change = (slope - (value - mean - shift) * inverse * tilt - level) * inverse
            if grad_sum is not None:
                change += tl.load(grad_sum + row * width + column, mask=inside, other=0.0).to(tl.float32)
            tl.store(dx + row * width + column, change, mask=inside)
            if dresidual is not None:
                tl.store(dresidual + row * width + column, change, mask=inside)
        tl.debug_barrier()  # threads may divide the next row's share among themselves in another way

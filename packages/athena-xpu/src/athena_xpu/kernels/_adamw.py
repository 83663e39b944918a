"""AdamW: a list of parameters in one launch, 28 bytes a parameter in float32.

Gradient, weight and both moments are read once; weight and moments are written once.
"""

from __future__ import annotations

from math import inf, log

import triton
import triton.language as tl
from torch import Tensor

from athena_xpu.kernels._lists import (
    Launch,
    bias_correction,
    is_whole,
    pointer,
    read_row,
    run_in_order,
    tables,
    takes,
)


def supports(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    lr: float,  # noqa: ARG001
    beta1: float,  # noqa: ARG001
    beta2: float,  # noqa: ARG001
    eps: float,  # noqa: ARG001
    weight_decay: float,  # noqa: ARG001
    maximize: bool,  # noqa: ARG001
) -> bool:
    return takes((params, grads, exp_avgs, exp_avg_sqs), steps)


def run(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    # Differences from 1 are taken here, in float64: in float32 they would lose their last digits.
    rates = (lr, 1 - lr * weight_decay, 1 - beta1, beta2, 1 - beta2, log_of(beta1), log_of(beta2), eps)
    launches = [
        Launch(
            _step,
            len(one.chunks),
            (one.rows, one.chunks, *rates),
            {**one.meta, "SIGN": -1 if maximize else 1},
        )
        for one in tables((params, grads, exp_avgs, exp_avg_sqs), steps)
    ]
    run_in_order(launches, on=params[0])


def log_of(beta: float) -> float:
    """The logarithm, of 0 too."""
    return log(beta) if beta > 0 else -inf


@triton.jit
def _step(
    rows,
    chunks,
    lr,
    kept,
    rise1,
    beta2,
    rise2,
    log_beta1,
    log_beta2,
    eps,
    SIGN: tl.constexpr,
    DTYPE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    _, row, start, length = read_row(rows, chunks, CHUNK)
    rate = lr / bias_correction(row, log_beta1)
    spread = 1 / tl.sqrt(bias_correction(row, log_beta2))
    rates = (rate, kept, rise1, beta2, rise2, spread, eps)
    if is_whole(row, length, CHUNK):
        _step_chunk(row, start, length, rates, SIGN, DTYPE, BLOCK, True)
    else:
        _step_chunk(row, start, length, rates, SIGN, DTYPE, BLOCK, False)


@triton.jit
def _step_chunk(
    row,
    start,
    length,
    rates,
    SIGN: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE,
):
    rate, kept, rise1, beta2, rise2, spread, eps = rates
    param = pointer(row, 0, start, DTYPE, WHOLE)
    grad = pointer(row, 1, start, DTYPE, WHOLE)
    exp_avg = pointer(row, 2, start, DTYPE, WHOLE)
    exp_avg_sq = pointer(row, 3, start, DTYPE, WHOLE)
    for begin in range(0, length, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        inside = (at < length) | WHOLE
        g = SIGN * tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        p = tl.load(param + at, mask=inside, other=0.0).to(tl.float32)
        m = tl.load(exp_avg + at, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(exp_avg_sq + at, mask=inside, other=0.0).to(tl.float32)
        m += rise1 * (g - m)
        v = beta2 * v + rise2 * g * g
        p = kept * p - rate * m / (tl.sqrt(v) * spread + eps)
        tl.store(exp_avg + at, m, mask=inside)
        tl.store(exp_avg_sq + at, v, mask=inside)
        tl.store(param + at, p, mask=inside)

"""LAMB: a list of parameters in three launches, 40 bytes a parameter in float32.

The first changes both moments and sums the squares of weights and updates, a pair of numbers a chunk; the
second adds these up, in one order, to each tensor's ratio; the third finds the update again from the moments,
which moves as many bytes as to have written it and spares its memory, and applies it. Without ratios the
first does it all, in 28 bytes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from athena_xpu.kernels._adamw import log_of
from athena_xpu.kernels._launch import DTYPES
from athena_xpu.kernels._lists import (
    COLUMNS,
    Launch,
    bias_correction,
    is_whole,
    pointer,
    read_row,
    run_in_order,
    tables,
    takes,
)

_SUMS = 4096  # pairs that the second pass adds at a time


def supports(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    norm: Tensor | None,
    scratch: Tensor | None,  # noqa: ARG001
    lr: float,  # noqa: ARG001
    beta1: float,  # noqa: ARG001
    beta2: float,  # noqa: ARG001
    eps: float,  # noqa: ARG001
    weight_decay: float,  # noqa: ARG001
    bias_correction: bool,  # noqa: ARG001
    adapt: bool,  # noqa: ARG001
    min_ratio: float,  # noqa: ARG001
    max_ratio: float,  # noqa: ARG001
    maximize: bool,  # noqa: ARG001
) -> bool:
    return takes((params, grads, exp_avgs, exp_avg_sqs), steps) and (
        norm is None or (norm.device == params[0].device and norm.dtype in DTYPES and norm.numel() == 1)
    )


def run(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    norm: Tensor | None,
    scratch: Tensor | None,  # noqa: ARG001  what the reference needs on the CPU
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    bias_correction: bool,
    adapt: bool,
    min_ratio: float,
    max_ratio: float,
    maximize: bool,
) -> None:
    logs = (log_of(beta1), log_of(beta2))
    # Differences from 1 are taken here, in float64: in float32 they would lose their last digits.
    moments = (norm, lr, 1 - beta1, beta2, 1 - beta2, *logs, eps, weight_decay)
    launches = []
    for one in tables((params, grads, exp_avgs, exp_avg_sqs), steps):
        table, count = (one.rows, one.chunks), len(one.chunks)
        corrects = {"CORRECTS": bias_correction, **one.meta}
        first = {"SIGN": -1 if maximize else 1, "ADAPTS": adapt, **corrects}
        if not adapt:
            launches.append(Launch(_moments, count, (*table, None, *moments), first))
            continue
        sums = torch.empty(count, 2, dtype=torch.float32, device=one.rows.device)
        ratios = torch.empty(len(one.rows), dtype=torch.float32, device=one.rows.device)
        summing = {"CHUNK": one.meta["CHUNK"], "BLOCK": _SUMS, "num_warps": 8}
        applied = (*table, ratios, lr, *logs, eps, weight_decay)
        launches += [
            Launch(_moments, count, (*table, sums, *moments), first),
            Launch(_ratios, len(one.rows), (one.rows, sums, ratios, min_ratio, max_ratio), summing),
            Launch(_apply, count, applied, corrects),
        ]
    run_in_order(launches, on=params[0])


@triton.jit
def _factors(row, log_beta1, log_beta2, CORRECTS: tl.constexpr):
    """What bias correction multiplies the first moment and the root of the second with."""
    first = 1.0
    second = 1.0
    if CORRECTS:
        first = 1 / bias_correction(row, log_beta1)
        second = 1 / tl.sqrt(bias_correction(row, log_beta2))
    return first, second


@triton.jit
def _direction(p, m, v, first, second, eps, decay):
    return first * m / (second * tl.sqrt(v) + eps) + decay * p


@triton.jit
def _moments(
    rows,
    chunks,
    sums,
    norm,
    lr,
    rise1,
    beta2,
    rise2,
    log_beta1,
    log_beta2,
    eps,
    decay,
    SIGN: tl.constexpr,
    ADAPTS: tl.constexpr,
    CORRECTS: tl.constexpr,
    DTYPE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    _, row, start, length = read_row(rows, chunks, CHUNK)
    first, second = _factors(row, log_beta1, log_beta2, CORRECTS)
    scale = 1.0
    if norm is not None:
        scale = tl.load(norm).to(tl.float32)
    rates = (rise1, beta2, rise2, first, second, eps, decay, lr)
    if is_whole(row, length, CHUNK):
        weight, update = _moments_of(row, start, length, scale, rates, SIGN, ADAPTS, DTYPE, BLOCK, True)
    else:
        weight, update = _moments_of(row, start, length, scale, rates, SIGN, ADAPTS, DTYPE, BLOCK, False)
    if ADAPTS:
        place = sums + 2 * tl.program_id(0).to(tl.int64)
        tl.store(place, weight)
        tl.store(place + 1, update)


@triton.jit
def _moments_of(
    row,
    start,
    length,
    scale,
    rates,
    SIGN: tl.constexpr,
    ADAPTS: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE,
):
    """Change the moments of a chunk; return the sums of the squares of its weights and updates."""
    rise1, beta2, rise2, first, second, eps, decay, lr = rates
    param = pointer(row, 0, start, DTYPE, WHOLE)
    grad = pointer(row, 1, start, DTYPE, WHOLE)
    exp_avg = pointer(row, 2, start, DTYPE, WHOLE)
    exp_avg_sq = pointer(row, 3, start, DTYPE, WHOLE)
    weights = tl.zeros([BLOCK], tl.float32)
    updates = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, length, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        inside = (at < length) | WHOLE
        g = SIGN * tl.load(grad + at, mask=inside, other=0.0).to(tl.float32) / scale
        p = tl.load(param + at, mask=inside, other=0.0).to(tl.float32)
        m = tl.load(exp_avg + at, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(exp_avg_sq + at, mask=inside, other=0.0).to(tl.float32)
        m = (m + rise1 * (g - m)).to(DTYPE)  # as the third pass will read them
        v = (beta2 * v + rise2 * g * g).to(DTYPE)
        tl.store(exp_avg + at, m, mask=inside)
        tl.store(exp_avg_sq + at, v, mask=inside)
        u = _direction(p, m.to(tl.float32), v.to(tl.float32), first, second, eps, decay)
        if ADAPTS:
            weights += p * p
            updates += tl.where(inside, u * u, 0.0)
        else:
            tl.store(param + at, p - lr * u, mask=inside)
    return tl.sum(weights), tl.sum(updates)


@triton.jit
def _ratios(rows, sums, ratios, low, high, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """Each tensor's ratio of norms, from its chunks' sums of squares."""
    row = rows + tl.program_id(0).to(tl.int64) * COLUMNS
    count = (tl.load(row + 5) + CHUNK - 1) // CHUNK
    place = sums + 2 * tl.load(row + 6)
    weights = tl.zeros([BLOCK], tl.float32)
    updates = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, count, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        weights += tl.load(place + 2 * at, mask=at < count, other=0.0)
        updates += tl.load(place + 2 * at + 1, mask=at < count, other=0.0)
    weight, update = tl.sqrt(tl.sum(weights)), tl.sqrt(tl.sum(updates))
    both = (weight > 0) & (update > 0)
    ratio = weight / tl.where(both, update, 1.0)
    bounded = tl.minimum(tl.maximum(ratio, low), high)
    bounded = tl.where(ratio == ratio, bounded, ratio)  # NaN stays: infinity over infinity
    tl.store(ratios + tl.program_id(0), tl.where(both, bounded, 1.0))


@triton.jit
def _apply(
    rows,
    chunks,
    ratios,
    lr,
    log_beta1,
    log_beta2,
    eps,
    decay,
    CORRECTS: tl.constexpr,
    DTYPE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tensor, row, start, length = read_row(rows, chunks, CHUNK)
    first, second = _factors(row, log_beta1, log_beta2, CORRECTS)
    rate = lr * tl.load(ratios + tensor)
    rates = (first, second, eps, decay, rate)
    if is_whole(row, length, CHUNK):
        _apply_to(row, start, length, rates, DTYPE, BLOCK, True)
    else:
        _apply_to(row, start, length, rates, DTYPE, BLOCK, False)


@triton.jit
def _apply_to(row, start, length, rates, DTYPE: tl.constexpr, BLOCK: tl.constexpr, WHOLE):
    first, second, eps, decay, rate = rates
    param = pointer(row, 0, start, DTYPE, WHOLE)
    exp_avg = pointer(row, 2, start, DTYPE, WHOLE)
    exp_avg_sq = pointer(row, 3, start, DTYPE, WHOLE)
    for begin in range(0, length, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        inside = (at < length) | WHOLE
        p = tl.load(param + at, mask=inside, other=0.0).to(tl.float32)
        m = tl.load(exp_avg + at, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(exp_avg_sq + at, mask=inside, other=0.0).to(tl.float32)
        u = _direction(p, m, v, first, second, eps, decay)
        tl.store(param + at, p - rate * u, mask=inside)

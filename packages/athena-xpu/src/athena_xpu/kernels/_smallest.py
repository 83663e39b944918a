"""The mask of the smallest scores: radix selection of the threshold, then ties cut by position.

Scores become unsigned integers in the same order. Eight bits at a time, from the highest, each program
counts the digits of its share of the scores that agree with the threshold so far, and one program adds the
counts and finds the threshold's next digit: radixSelect of Alabi et al. 2012, Fast k-selection algorithms
for graphics processing units. All sums are of integers, so that the mask is the same in every run, and the
host waits for nothing.

Float32 scores are read five times, bfloat16's three times; the mask is written once: 21 and 7 bytes each.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from athena_xpu.kernels._launch import DTYPES, launch

_BLOCK, _WARPS = 2048, 8
_PROGRAMS = 512  # enough for all known devices; one program adds what they have counted
# The bits of a float32 that tell two numbers of the dtype apart, rounded up to whole digits.
_DIGITS = {torch.float32: 4, torch.float16: 3, torch.bfloat16: 2}


def supports(scores: Tensor, count: int) -> bool:
    return scores.dtype in DTYPES and 0 < count <= scores.numel() < 2**31


def run(scores: Tensor, count: int) -> Tensor:
    scores = scores.contiguous().view(-1)
    elements = scores.numel()
    span = triton.cdiv(triton.cdiv(elements, _BLOCK), _PROGRAMS) * _BLOCK
    programs = triton.cdiv(elements, span)
    counts = scores.new_empty(programs, 256, dtype=torch.int32)
    state = scores.new_empty(2, dtype=torch.int32)  # the threshold's digits so far; its rank among those
    last = 32 - 8 * _DIGITS[scores.dtype]
    for shift in range(24, last - 1, -8):
        meta = {"SHIFT": shift, "BLOCK": _BLOCK, "num_warps": _WARPS}
        launch(_count, (programs,), scores, state, counts, elements, span, **meta, on=scores)
        meta = {"FIRST": shift == 24, "ROWS": 16, "num_warps": _WARPS}
        launch(_narrow, (1,), counts, state, programs, count, **meta, on=scores)
    mask = torch.empty_like(scores, dtype=torch.bool)
    meta = {"SHIFT": last, "PROGRAMS": _PROGRAMS, "BLOCK": _BLOCK, "num_warps": _WARPS}
    launch(_mark, (programs,), scores, state, counts, mask, elements, span, **meta, on=scores)
    return mask


@triton.jit
def _keys(x, offset, elements):
    """Unsigned integers in the order of the numbers, where -0 equals 0 and NaN is the largest of all."""
    value = tl.load(x + offset, mask=offset < elements, other=0.0)
    if value.dtype == tl.bfloat16:  # by its bits, as subnormal numbers may be lost in a conversion
        bits = value.to(tl.int16, bitcast=True).to(tl.int32) << 16
    else:
        bits = value.to(tl.float32).to(tl.int32, bitcast=True)
    bits = tl.where(bits == -0x80000000, 0, bits)
    key = bits ^ ((bits >> 31) | -0x80000000)
    key = tl.where((bits & 0x7FFFFFFF) > 0x7F800000, -1, key)
    return key.to(tl.uint32, bitcast=True)


@triton.jit
def _count(x, state, counts, elements, span, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    total = tl.zeros([256], tl.int32)
    for start in range(0, span, BLOCK):
        offset = program.to(tl.int64) * span + start + tl.arange(0, BLOCK)
        key = _keys(x, offset, elements)
        agrees = offset < elements
        if SHIFT < 24:
            found = tl.load(state).to(tl.uint32, bitcast=True)
            agrees &= (key >> (SHIFT + 8)) == found
        total += tl.histogram(((key >> SHIFT) & 255).to(tl.int32), 256, mask=agrees)
    tl.store(counts + program * 256 + tl.arange(0, 256), total)


@triton.jit(do_not_specialize=["count"])
def _narrow(counts, state, programs, count, FIRST: tl.constexpr, ROWS: tl.constexpr):
    digits = tl.arange(0, 256)
    total = tl.zeros([256], tl.int32)
    for start in range(0, programs, ROWS):
        row = start + tl.arange(0, ROWS)
        tile = counts + row[:, None] * 256 + digits[None, :]
        total += tl.sum(tl.load(tile, mask=row[:, None] < programs, other=0), 0)
    if FIRST:
        found = 0
        rank = count
    else:
        found = tl.load(state)
        rank = tl.load(state + 1)
    digit = tl.sum((tl.cumsum(total, 0) < rank).to(tl.int32), 0)
    tl.store(state, digit + (found << 8))
    tl.store(state + 1, rank - tl.sum(tl.where(digits < digit, total, 0), 0))


@triton.jit
def _mark(
    x,
    state,
    counts,
    mask,
    elements,
    span,
    SHIFT: tl.constexpr,
    PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    threshold = tl.load(state).to(tl.uint32, bitcast=True)
    rank = tl.load(state + 1)
    others = tl.arange(0, PROGRAMS)
    # The last digit's counts are those of the ties.
    ties_before = tl.load(
        counts + others * 256 + (threshold & 255).to(tl.int32), mask=others < program, other=0
    )
    ties = tl.sum(ties_before, 0)
    is_number = threshold != tl.full([], 0xFFFFFFFF, tl.uint32) >> SHIFT
    for start in range(0, span, BLOCK):
        offset = program.to(tl.int64) * span + start + tl.arange(0, BLOCK)
        inside = offset < elements
        key = _keys(x, offset, elements) >> SHIFT
        tie = ((key == threshold) & inside).to(tl.int32)
        number = ties + tl.cumsum(tie, 0)
        found = (key < threshold) | ((tie == 1) & (number <= rank))
        tl.store(mask + offset, found & is_number, mask=inside)
        ties += tl.sum(tie, 0)

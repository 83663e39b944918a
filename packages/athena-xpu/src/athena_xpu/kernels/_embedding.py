"""Embedding: torch's gather, and a gradient without atomics, the same to the bit each time.

The forward pass is the device's own: it is one copy of rows already, and asserts that ids are in the table.
The gradient sums, for each word, the rows at its places, which a stable sort brings side by side:

    ids sorted      0 0 1 1 1 1 1 1 1 1 1 1 3 ...        pieces of PIECE places: | marks their bounds
                    . . . . | . . . . | . . . . | ...
    of word 1           h h   p p p p   t t              head, whole pieces, tail

One program writes each row of the gradient, zeros included. What it sums are places, and sums of those pieces
that hold its word alone, made before by a program each. So none has a long way, however often a word comes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from athena_xpu.kernels._launch import DTYPES, backward_op, launch

PIECE = 64  # places summed in one go
_TALL = 8  # rows that are in flight together


def supports(weight: Tensor, ids: Tensor, padding_idx: int | None = None) -> bool:  # noqa: ARG001
    return weight.dtype in DTYPES and weight.ndim == 2 and ids.dtype in (torch.int64, torch.int32)


def run(weight: Tensor, ids: Tensor, padding_idx: int | None = None) -> Tensor:
    return F.embedding(ids, weight, padding_idx)


def _run_backward(grad: Tensor, ids: Tensor, words: int, padding: int) -> Tensor:
    width = grad.shape[-1]
    gradient = grad.new_empty((words, width))
    if not gradient.numel():
        return gradient
    rows = grad.reshape(-1, width).contiguous()
    ids, places = ids.reshape(-1).sort(stable=True)
    bounds = torch.searchsorted(ids, torch.arange(words + 1, device=ids.device, dtype=ids.dtype))
    pieces = len(ids) // PIECE
    sums = torch.empty((pieces, width), dtype=torch.float32, device=grad.device)
    block = max(16, min(1024, triton.next_power_of_2(width)))
    columns = triton.cdiv(width, block)
    meta = {"TALL": _TALL, "BLOCK": block, "num_warps": max(1, min(8, block // 128)), "on": grad}
    if pieces:
        launch(_sum_pieces, (pieces, columns), rows, ids, places, sums, width, padding, PIECE=PIECE, **meta)
    arguments = rows, places, bounds, sums, gradient, width, padding
    launch(_sum_words, (words, columns), *arguments, PIECE=PIECE, **meta)
    return gradient


@triton.jit
def _sum(rows, index, first, last, width, column, TALL: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of rows[index[first:last]] in float32; without an index, of rows[first:last]."""
    total = tl.zeros([TALL, BLOCK], tl.float32)
    for start in range(first, last, TALL):
        place = start + tl.arange(0, TALL)[:, None]
        inside = place < last
        row = place.to(tl.int64)
        if index is not None:
            row = tl.load(index + place, mask=inside, other=0)
        values = tl.load(rows + row * width + column, mask=inside & (column < width), other=0.0)
        total += values.to(tl.float32)
    return tl.sum(total, 0)


@triton.jit
def _sum_pieces(
    rows,
    ids,
    places,
    sums,
    width,
    padding,
    PIECE: tl.constexpr,
    TALL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum the pieces that hold one word alone; nobody asks for the sums of others."""
    piece = tl.program_id(0)
    word = tl.load(ids + piece * PIECE)
    if (word == tl.load(ids + piece * PIECE + PIECE - 1)) & (word != padding):
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        total = _sum(rows, places, piece * PIECE, piece * PIECE + PIECE, width, column[None, :], TALL, BLOCK)
        tl.store(sums + piece.to(tl.int64) * width + column, total, mask=column < width)


@triton.jit
def _sum_words(
    rows,
    places,
    bounds,
    sums,
    gradient,
    width,
    padding,
    PIECE: tl.constexpr,
    TALL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    word = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = tl.load(bounds + word).to(tl.int32)
    last = tl.load(bounds + word + 1).to(tl.int32)
    last = tl.where(word == padding, first, last)
    total = tl.zeros([BLOCK], tl.float32)
    if first < last:
        begin = tl.cdiv(first, PIECE)  # the first piece that begins within, the last that ends there
        end = last // PIECE
        head = tl.minimum(begin * PIECE, last)
        tail = tl.maximum(end * PIECE, head)
        total += _sum(rows, places, first, head, width, column[None, :], TALL, BLOCK)
        total += _sum(sums, None, begin, end, width, column[None, :], TALL, BLOCK)
        total += _sum(rows, places, tail, last, width, column[None, :], TALL, BLOCK)
    tl.store(gradient + word.to(tl.int64) * width + column, total, mask=column < width)


embedding_backward = backward_op(
    "embedding_backward(Tensor grad, Tensor ids, SymInt words, SymInt padding) -> Tensor",
    _run_backward,
    lambda grad, _, words, __: grad.new_empty((words, grad.shape[-1])),
)


class Formula:
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        weight, ids, padding = inputs
        ctx.words = weight.shape[0]
        ctx.padding = -1 if padding is None else padding % ctx.words
        ctx.save_for_backward(ids)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return embedding_backward(grad, ctx.saved_tensors[0], ctx.words, ctx.padding), None, None

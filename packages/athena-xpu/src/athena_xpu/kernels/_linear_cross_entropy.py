r"""Cross-entropy over a vocabulary from the layer below: a chunk of logits at a time, turned in place.

The products stay torch's: what Triton reaches in plain products is at best on par with cuBLAS (Tillet et al.
2019, doi:10.1145/3315508.3329973, abstract), and its ``dot`` missed the A770's matrix unit
(intel/intel-xpu-backend-for-triton#3449), which oneDNN reaches. What lies between them is one kernel: it
reads a chunk's logits twice and writes over them the losses' derivatives. Gradients are made in the forward
pass, as in Hsu et al. 2024, arXiv:2410.10989, section 3.2; the softmax is online, Milakov & Gimelshein 2018,
arXiv:1805.02867, algorithm 3.

Memory beyond arguments and results, for :math:`N` rows of width :math:`D`, a vocabulary of :math:`V`, and
products of :math:`s` bytes an element, in chunks of :math:`c \le \max(1024, D)` rows:

.. math:: c V s + V D a + N D s

:math:`a` is 2 where a bfloat16 weight's gradient is summed in bfloat16, else 4, with :math:`V D s` more for
a product of other dtype before it is added. At 16,384 x 4,096 and 131,072 words in bfloat16 these are 1 + 1
+ 1/8 GiB, where float32 logits, their log-softmax and its gradient take 24 GiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from athena_xpu.kernels._launch import DTYPES, backward_op, block_of, launch

# The gradient of the weight is read and written once a chunk of c rows, 4 V D bytes in bfloat16 beside
# 2 c V D operations: c / 2 a byte. Devices do 250 to 300 in the time of a byte (A770, H100).
_LEAST_ROWS = 1024
_MOST_BYTES = 2**31  # of a chunk's logits; the A series gives no more than 4 GiB at once
# So many sums in bfloat16 double the error of the one rounding that the result has in any case (measured:
# 3.5e-3 for 1.6e-3), and spare float32 sums, which at 131,072 x 4,096 take 2 GiB, as much as all the rest.
_FEW_CHUNKS = 8


def supports(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,  # noqa: ARG001
    reduction: str = "mean",  # noqa: ARG001
    label_smoothing: float = 0.0,  # noqa: ARG001
) -> bool:
    device = hidden.device
    return (
        hidden.dtype in DTYPES
        and weight.dtype in DTYPES
        and weight.device == device == targets.device
        and (bias is None or (bias.dtype in DTYPES and bias.device == device))
        and weight.shape[0] > 0
        and targets.shape == hidden.shape[:-1]
    )


def run(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    mean, dtype, needed = reduction == "mean", _product_dtype(hidden), [False] * 3
    return _run(hidden, weight, targets, bias, ignore_index, mean, label_smoothing, dtype, needed)[0]


def _product_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def chunks_of(rows: int, width: int, vocabulary: int, itemsize: int) -> int:
    """How many chunks the rows are taken in."""
    most = min(max(_LEAST_ROWS, width), _MOST_BYTES // (vocabulary * itemsize))
    return max(1, -(-rows // max(1, most)))


def _empty_gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, needed: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the gradients of the sum of the losses; of no elements where none is needed."""
    rows = hidden.reshape(-1, hidden.shape[-1])
    chunks = chunks_of(rows.shape[0], rows.shape[1], weight.shape[0], dtype.itemsize)
    narrow = weight.dtype == dtype == torch.bfloat16 and chunks <= _FEW_CHUNKS  # float16 would overflow
    wide = torch.float32
    return (
        torch.empty_like(rows) if needed[0] else rows.new_empty(0),
        torch.empty_like(weight, dtype=weight.dtype if narrow else wide) if needed[1] else rows.new_empty(0),
        bias.new_empty(bias.shape, dtype=wide) if bias is not None and needed[2] else rows.new_empty(0),
    )


def _run(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    mean: bool,
    label_smoothing: float,
    dtype: torch.dtype,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The loss, the gradients of the sum of the losses, and the count that divides both."""
    rows, words, index = hidden.reshape(-1, hidden.shape[-1]), weight.to(dtype), targets.reshape(-1)
    index, offsets = index.contiguous(), None if bias is None else bias.contiguous()
    (length, width), vocabulary = rows.shape, weight.shape[0]
    chunks = chunks_of(length, width, vocabulary, dtype.itemsize)
    size = -(-length // chunks)
    gradients = _empty_gradients(hidden, weight, bias, dtype, needed)
    for_rows, for_weight, for_bias = gradients
    for_weight.zero_()
    for_bias.zero_()
    kept = index != ignore_index
    losses = rows.new_empty(length, dtype=torch.float32)
    buffer = rows.new_empty(size, vocabulary, dtype=dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, length, max(1, size)):
            chunk = slice(start, start + size)
            h = torch.where(kept[chunk, None], rows[chunk].to(dtype), 0)  # what is ignored may not be finite
            logits = torch.mm(h, words.T, out=buffer[: h.shape[0]])
            turn(logits, index[chunk], offsets, losses[chunk], ignore_index, label_smoothing, any(needed))
            if needed[0]:
                for_rows[chunk] = torch.mm(logits, words)
            if needed[1]:
                _add_product(for_weight, logits.T, h)
            if needed[2] and bias is not None:
                for_bias += logits.sum(0, dtype=torch.float32)
    count = kept.sum() if mean else kept.new_ones((), dtype=torch.long)  # stays on the device
    return losses.sum() / count, *gradients, count


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total += torch.mm(left, right)


def turn(
    logits: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    losses: Tensor,
    ignore_index: int,
    label_smoothing: float,
    slopes: bool,
) -> None:
    """Write the losses of rows of logits, and over the logits, if ``slopes``, the losses' derivatives."""
    rows, vocabulary = logits.shape
    if not rows:
        return
    block, warps = block_of(vocabulary, 8192)
    launch(
        _turn,
        (rows,),
        logits,
        targets,
        bias,
        losses,
        vocabulary,
        ignore_index,
        label_smoothing,
        HAS_BIAS=bias is not None,
        SMOOTHED=label_smoothing != 0,
        SLOPES=slopes,
        BLOCK=block,
        num_warps=warps,
        on=logits,
    )


@triton.jit
def _logits_at(logits, bias, column, vocabulary, HAS_BIAS: tl.constexpr):
    inside = column < vocabulary
    z = tl.load(logits + column, mask=inside, other=-float("inf")).to(tl.float32)
    if HAS_BIAS:
        z += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    return z


@triton.jit
def _softmax_sums(
    logits, bias, vocabulary, HAS_BIAS: tl.constexpr, SMOOTHED: tl.constexpr, BLOCK: tl.constexpr
):
    """The largest logit, the sum of exponentials beneath it, and where ``SMOOTHED`` the sum of the logits.

    While the largest is -inf, from which nothing can be taken, 0 stands for it.
    """
    columns = tl.arange(0, BLOCK)
    top = -float("inf")
    shift = 0.0
    total = 0.0
    plain = 0.0
    for start in range(0, vocabulary, BLOCK):
        z = _logits_at(logits, bias, start + columns, vocabulary, HAS_BIAS)
        top = tl.maximum(top, tl.max(z, 0))
        new_shift = tl.where(top == -float("inf"), 0.0, top)
        # Before the first finite logit nothing is summed, whatever the factor; it must not overflow.
        total = total * tl.exp(tl.minimum(shift - new_shift, 0.0)) + tl.sum(tl.exp(z - new_shift), 0)
        shift = new_shift
        if SMOOTHED:
            plain = tl.sum(tl.where(start + columns < vocabulary, z, 0.0), 0) + plain
    return shift, total, plain


@triton.jit
def _turn(
    logits,
    targets,
    bias,
    losses,
    vocabulary,
    ignore_index,
    smoothing,
    HAS_BIAS: tl.constexpr,
    SMOOTHED: tl.constexpr,
    SLOPES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocabulary
    target = tl.load(targets + row)
    columns = tl.arange(0, BLOCK)
    if target == ignore_index:
        tl.store(losses + row, 0.0)
        if SLOPES:
            for start in range(0, vocabulary, BLOCK):
                zeros = tl.zeros([BLOCK], logits.dtype.element_ty)
                tl.store(logits + start + columns, zeros, mask=start + columns < vocabulary)
    else:
        # A target outside the vocabulary, which torch asserts on a device, gives a loss of NaN.
        inside = (target >= 0) & (target < vocabulary)
        right = tl.load(logits + target, mask=inside, other=float("nan")).to(tl.float32)
        if HAS_BIAS:
            right += tl.load(bias + target, mask=inside, other=0.0).to(tl.float32)
        shift, total, plain = _softmax_sums(logits, bias, vocabulary, HAS_BIAS, SMOOTHED, BLOCK)
        loss = tl.log(total) - (right - shift)
        if SMOOTHED:
            loss += smoothing * (right - plain / vocabulary)
        tl.store(losses + row, loss)
        if SLOPES:
            for start in range(0, vocabulary, BLOCK):
                column = start + columns
                z = _logits_at(logits, bias, column, vocabulary, HAS_BIAS)
                is_target = tl.where(column == target, 1.0, 0.0)
                slope = tl.exp(z - shift) / total - is_target
                if SMOOTHED:
                    slope += smoothing * (is_target - 1.0 / vocabulary)
                tl.store(logits + column, slope.to(logits.dtype.element_ty), mask=column < vocabulary)


def _fake(hidden, weight, targets, bias, ignore_index, mean, label_smoothing, dtype, needed):  # noqa: ARG001
    gradients = _empty_gradients(hidden, weight, bias, dtype, needed)
    return hidden.new_empty((), dtype=torch.float32), *gradients, targets.new_empty((), dtype=torch.long)


linear_cross_entropy_gradients = backward_op(
    "linear_cross_entropy_gradients(Tensor hidden, Tensor weight, Tensor targets, Tensor? bias, "
    "int ignore_index, bool mean, float label_smoothing, ScalarType dtype, bool[] needed) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run,
    _fake,
)


class Formula:
    """The gradients are made with the loss, and only scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        bias: Tensor | None,
        ignore_index: int,
        reduction: str,
        label_smoothing: float,
    ) -> Tensor:
        needed = [ctx.needs_input_grad[i] for i in (0, 1, 3)]
        mean, dtype = reduction == "mean", _product_dtype(hidden)
        loss, *saved = linear_cross_entropy_gradients(
            hidden, weight, targets, bias, ignore_index, mean, label_smoothing, dtype, needed
        )
        ctx.save_for_backward(*saved)
        ctx.like = [
            (one.shape, one.dtype) if need and one is not None else None
            for one, need in zip((hidden, weight, bias), needed, strict=True)
        ]
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *gradients, count = ctx.saved_tensors
        scale = grad / count.clamp(min=1)  # of no rows, the gradients are zero
        for_hidden, for_weight, for_bias = (
            None if like is None else (gradient * scale).to(like[1]).view(like[0])
            for gradient, like in zip(gradients, ctx.like, strict=True)
        )
        return for_hidden, for_weight, None, for_bias, None, None, None

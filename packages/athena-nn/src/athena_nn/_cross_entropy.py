"""The loss over a vocabulary, from the layer below the logits, a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from athena_core import op, without_autocast
from athena_nn._analytic import analytic, autocasting, plain, transformed

# Logits held at once: 32 MiB in float32, or those of 512 rows. With fewer rows, reading the weight and
# adding to its gradient for each chunk would weigh against the products.
_LOGITS, _ROWS = 2**23, 512


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Cross-entropy of the logits ``hidden @ weight.T + bias``, which are never all held.

    .. math:: \ell_r = -(1-\alpha) \log p_{r,t_r} - \tfrac{\alpha}{V} \sum_v \log p_{r,v}, \qquad
              p_r = \operatorname{softmax}(W h_r + b)

    A chunk of rows at a time, the logits are made, turned into losses and, where gradients are wanted,
    at once into their share of the gradients of ``hidden``, ``weight`` and ``bias``: three matrix products
    and no second pass. Under autocast the products are made in its dtype; softmax, losses and the sums
    of ``weight``'s gradient are in float32 (float64 for float64).

    Args:
        hidden: what the last linear layer is given.
        weight: of that layer.
        targets: the right word of each row, or ``ignore_index``.
        bias: of that layer.
        ignore_index: rows with this target count neither for the loss nor for the gradients.
        reduction: ``"mean"`` over the rows that count, or ``"sum"``. The mean of no rows is NaN, with
            gradients of zero, as in `torch.nn.functional.cross_entropy`.
        label_smoothing: :math:`\alpha`, spread over the whole vocabulary.

    Under `torch.compile` the chunks are unrolled. With dynamic sizes one graph serves all numbers of rows
    that fit one chunk, and beyond it one serves each doubling, as the number of chunks is then a power of
    two.

    All logits at once are held after all under `torch.func` transforms, forward-mode differentiation,
    and where the gradient's own gradient is wanted.

    Shape: ``hidden (..., width)``, ``weight (vocabulary, width)``, ``targets (...)`` of integers, ``bias
    (vocabulary,)`` -> a scalar in float32 (float64 for float64). Raises ValueError if shapes or dtypes do
    not fit, ``reduction`` or ``label_smoothing`` is not allowed, or, on the CPU, a target lies outside the
    vocabulary. Source: Szegedy et al. 2016, arXiv:1512.00567, equation 3 and section 7 for the smoothing;
    gradients in the forward pass as in Hsu et al. 2024, arXiv:2410.10989, section 3.2. Departs from them:
    no.

    >>> hidden, weight = torch.randn(6, 8), torch.randn(100, 8, requires_grad=True)
    >>> targets = torch.tensor([7, 0, 99, -100, 3, 3])
    >>> loss = linear_cross_entropy(hidden, weight, targets)
    >>> torch.allclose(loss, F.cross_entropy(hidden @ weight.T, targets))
    True
    """
    _check(hidden, weight, targets, bias, reduction, label_smoothing)
    _check_targets(targets, weight.shape[0], ignore_index)
    return _op(hidden, weight, targets, bias, ignore_index, reduction, label_smoothing)


def _check(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, reduction: str, smoothing: float
) -> None:
    if weight.ndim != 2 or hidden.shape[-1:] != weight.shape[1:]:
        raise ValueError(
            f"`hidden` must be (..., width) and `weight` (vocabulary, width); "
            f"got {tuple(hidden.shape)} and {tuple(weight.shape)}."
        )
    if hidden.dtype != weight.dtype and not autocasting(hidden.device.type):
        raise ValueError(
            f"`hidden` and `weight` must have one dtype outside autocast; "
            f"got {hidden.dtype} and {weight.dtype}."
        )
    if targets.shape != hidden.shape[:-1]:
        raise ValueError(
            f"`targets` must have the shape of `hidden` without its last axis, "
            f"{tuple(hidden.shape[:-1])}; got {tuple(targets.shape)}."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"`bias` must have the shape (vocabulary,), {tuple(weight.shape[:1])}; got {tuple(bias.shape)}."
        )
    if targets.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"`targets` must be int64 or int32; got {targets.dtype}.")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"`reduction` must be 'mean' or 'sum'; got {reduction!r}.")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"`label_smoothing` must lie in [0, 1]; got {smoothing}.")


def _check_targets(targets: Tensor, vocabulary: int, ignore_index: int) -> None:
    """On the CPU alone: an accelerator would have to be waited for, and asserts itself."""
    if is_compiling() or transformed() or not targets.is_cpu or not plain((targets,)):
        return
    outside = ((targets < 0) | (targets >= vocabulary)) & (targets != ignore_index)
    if outside.any():
        raise ValueError(
            f"`targets` must lie in [0, {vocabulary}), the rows of `weight`, or be `ignore_index`, "
            f"{ignore_index}; got {targets[outside][0].item()}."
        )


def _samples(device: str, dtype: torch.dtype, generator: torch.Generator) -> Iterator[tuple[Any, ...]]:
    """Inputs on which kernels are compared: odd, empty and strided; ignored rows; all options."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    for rows, width, vocabulary in ((5, 3, 7), (4, 16, 33), (0, 4, 5), (1, 1, 1), (40, 8, 129)):
        hidden, weight, bias = draw(rows, width), draw(vocabulary, width), draw(vocabulary)
        targets = torch.randint(vocabulary, (rows,), generator=generator).to(device)
        yield hidden, weight, targets, None, -100, "sum", 0.0
        yield hidden, weight, targets, bias, -100, "sum", 0.1
        targets = targets.clone()  # what was yielded may be kept
        targets[rows // 2 :] = -1
        targets[:1] = 0
        if rows:
            yield hidden, weight, targets, bias, -1, "mean", 0.0
    yield draw(2, 3, 8)[..., ::2], draw(4, 9).T, torch.ones(2, 3, dtype=torch.long, device=device)


def _formula(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    logits = F.linear(hidden, weight, bias).flatten(0, -2)
    if logits.dtype != torch.float64:
        logits = logits.float()
    return F.cross_entropy(
        logits,
        targets.flatten().long(),
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


class _Gradients:
    """Gradients of the sum of the rows' losses, chunk after chunk; None where not needed."""

    def __init__(
        self, needed: Sequence[bool], rows: Tensor, weight: Tensor, bias: Tensor | None, wide: torch.dtype
    ) -> None:
        self.hidden = torch.empty_like(rows) if needed[0] else None
        self.weight = torch.zeros_like(weight, dtype=wide) if needed[1] else None
        self.bias = torch.zeros_like(bias, dtype=wide) if bias is not None and needed[3] else None

    def add(self, chunk: slice, slopes: Tensor, h: Tensor, words: Tensor, kept: Tensor) -> None:
        if self.bias is not None:
            self.bias += torch.mv(slopes.T, kept[:, 0].to(slopes.dtype))
        slopes = slopes.to(words.dtype)
        if self.hidden is not None:
            self.hidden[chunk] = torch.mm(slopes, words) * kept
        if self.weight is not None and self.weight.dtype == words.dtype:
            self.weight.addmm_(slopes.T, h)  # where h is zero if not kept
        elif self.weight is not None:
            self.weight += torch.mm(slopes.T, h)


def _forward(
    needed: Sequence[bool],
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The loss; saved are `_Gradients`, and the count that divides them."""
    device = hidden.device.type
    narrow, wide = hidden.dtype, torch.promote_types(hidden.dtype, torch.float32)
    if wide == torch.float32 and autocasting(device):
        narrow = torch.get_autocast_dtype(device)
    rows, words, index = hidden.reshape(-1, hidden.shape[-1]), weight.to(narrow), targets.reshape(-1, 1)
    kept = index != ignore_index
    index = torch.where(kept, index, 0).long()
    losses = torch.empty_like(kept, dtype=wide)
    gradients = _Gradients(needed, rows, weight, bias, wide)
    (length, _), vocabulary = rows.shape, weight.shape[0]  # `len` would make a compiler's sizes constants
    chunks = _chunks(length, vocabulary)
    size = -(-length // chunks)
    buffer = rows.new_empty(size, vocabulary, dtype=wide)
    with without_autocast(device):
        for number in range(chunks):
            end = (number + 1) * size if number + 1 < chunks else None  # to compare it makes a graph for each
            chunk = slice(number * size, end)
            h = torch.where(kept[chunk], rows[chunk].to(narrow), 0)  # what is ignored may not be finite
            logits = _logits(h, words, bias, buffer[: h.shape[0]])
            losses[chunk] = _losses(logits, index[chunk], label_smoothing, slopes=any(needed))
            if any(needed):
                gradients.add(chunk, logits, h, words, kept[chunk])
    count = kept.sum() if reduction == "mean" else kept.new_ones((), dtype=torch.long)
    loss = torch.where(kept, losses, 0).sum() / count
    return loss, (gradients.hidden, gradients.weight, gradients.bias, count)


def _chunks(rows: int, vocabulary: int) -> int:
    """How many chunks. A compiler unrolls them: to double them makes few graphs, and half as large chunks."""
    most = max(_ROWS, _LOGITS // max(1, vocabulary))
    if not is_compiling():
        return max(1, -(-rows // most))
    chunks = 1
    while chunks * most < rows:
        chunks *= 2
    return chunks


def _logits(h: Tensor, words: Tensor, bias: Tensor | None, buffer: Tensor) -> Tensor:
    """The logits, in the buffer: pages new to the process would cost as much as a pass over them."""
    if h.dtype == buffer.dtype:
        torch.mm(h, words.T, out=buffer)
    else:
        buffer.copy_(torch.mm(h, words.T))
    return buffer if bias is None else buffer.add_(bias)


def _losses(logits: Tensor, index: Tensor, label_smoothing: float, *, slopes: bool) -> Tensor:
    r"""The losses of rows, with their logits changed into the losses' derivatives if ``slopes``.

    .. math:: \frac{\partial \ell}{\partial z_v} = p_v - (1-\alpha)\,[v = t] - \tfrac{\alpha}{V}
    """
    logits -= logits.amax(1, keepdim=True)
    losses = -logits.gather(1, index)
    if label_smoothing:
        losses.lerp_(-logits.mean(1, keepdim=True), label_smoothing)
    total = logits.exp_().sum(1, keepdim=True)
    if slopes:
        logits /= total
        if label_smoothing:
            logits -= label_smoothing / logits.shape[1]
        logits.scatter_add_(1, index, logits.new_full(index.shape, label_smoothing - 1))
    return losses + total.log()


def _backward(
    needed: Sequence[bool],  # noqa: ARG001
    saved: Sequence[Tensor],
    args: Sequence[Any],
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    *gradients, count = saved
    scale = grad / count.clamp(min=1)  # of no rows, the gradients are zero

    def scaled(gradient: Tensor | None, like: Tensor) -> Tensor | None:
        return None if gradient is None else (gradient * scale).to(like.dtype).view(like.shape)

    hidden, weight, _, bias, *_ = args
    found = (scaled(*pair) for pair in zip(gradients, (hidden, weight, bias), strict=True))
    for_hidden, for_weight, for_bias = found
    return for_hidden, for_weight, None, for_bias, None, None, None


_chunked = analytic(_formula, _forward, _backward, traced=True)


def _linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    return _chunked(hidden, weight, targets, bias, ignore_index, reduction, label_smoothing)


_op = op(
    "athena_nn::linear_cross_entropy(Tensor hidden, Tensor weight, Tensor targets, Tensor? bias=None, "
    "int ignore_index=-100, str reduction='mean', float label_smoothing=0.0) -> Tensor",
    reference=_linear_cross_entropy,
    samples=_samples,
)

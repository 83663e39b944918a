"""The loss over a vocabulary whose projection lies in pieces of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from athena_core import without_autocast
from athena_nn._analytic import analytic, autocasting
from athena_nn._cross_entropy import _check, _check_targets, _chunks, _losses


def split_cross_entropy(
    hidden: Tensor, pieces: Sequence[Tensor], targets: Tensor, *, ignore_index: int = -100
) -> Tensor:
    r"""Mean cross-entropy of the logits ``[hidden @ piece.T, ...]``, as `linear_cross_entropy` has it.

    .. math:: \ell_r = \log \sum_k \sum_{v \in V_k} e^{z_{r,v}} - z_{r,t_r}, \qquad z_{r,V_k} = W_k h_r

    The pieces, what `athena_core.SplitLinear` holds, are never joined, nor are their gradients. A chunk of
    rows at a time, each piece fills its columns of one buffer, which becomes losses and slopes at once.
    Under `torch.compile` too, all logits are held.

    Shape: ``hidden (..., width)``, ``pieces (rows, width)`` each, integer ``targets (...)`` -> a scalar in
    float32 (float64 for float64). Raises, source and departures: those of `linear_cross_entropy`.

    >>> hidden, weight, targets = torch.randn(6, 8), torch.randn(100, 8), torch.arange(6)
    >>> loss = split_cross_entropy(hidden, weight.split(40), targets)
    >>> torch.allclose(loss, F.cross_entropy(hidden @ weight.T, targets))
    True
    """
    for piece in pieces:
        _check(hidden, piece, targets, None, "mean", 0.0)
    _check_targets(targets, sum(piece.shape[0] for piece in pieces), ignore_index)
    compute = _formula if is_compiling() else _chunked
    return compute(hidden, targets, ignore_index, *pieces)


def _formula(hidden: Tensor, targets: Tensor, ignore_index: int, *pieces: Tensor) -> Tensor:
    parts = [F.linear(hidden.to(piece.device), piece).to(hidden.device) for piece in pieces]
    logits = torch.cat(parts, dim=-1).flatten(0, -2)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, targets.flatten().long(), ignore_index=ignore_index)


def _forward(
    needed: Sequence[bool], hidden: Tensor, targets: Tensor, ignore_index: int, *pieces: Tensor
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The loss; saved are the gradients of its sum for ``hidden`` and pieces, and the count."""
    device = hidden.device.type
    narrow, wide = hidden.dtype, torch.promote_types(hidden.dtype, torch.float32)
    if wide == torch.float32 and autocasting(device):
        narrow = torch.get_autocast_dtype(device)
    rows, index = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1, 1)
    words, widths = [piece.to(narrow) for piece in pieces], [piece.shape[0] for piece in pieces]
    kept = index != ignore_index
    index = torch.where(kept, index, 0).long()
    losses = torch.empty_like(kept, dtype=wide)
    for_hidden, *for_pieces = (
        torch.zeros_like(one, dtype=wide) if need else None
        for one, need in zip((rows, *pieces), (needed[0], *needed[3:]), strict=True)
    )
    chunks = _chunks(rows.shape[0], sum(widths))
    size = -(-rows.shape[0] // chunks)
    buffer = rows.new_empty(size, sum(widths), dtype=wide)
    with without_autocast(device):
        for number in range(chunks):
            chunk = slice(number * size, (number + 1) * size if number + 1 < chunks else None)
            h = torch.where(kept[chunk], rows[chunk].to(narrow), 0)  # what is ignored may not be finite
            logits = buffer[: h.shape[0]]
            parts = logits.split(widths, dim=1)
            for columns, word in zip(parts, words, strict=True):
                _project(h, word, columns)
            losses[chunk] = _losses(logits, index[chunk], 0.0, slopes=any(needed))
            for columns, word, total in zip(parts, words, for_pieces, strict=True):
                slopes = columns.to(word.device, narrow)
                if for_hidden is not None:
                    for_hidden[chunk] += (slopes @ word).to(for_hidden.device) * kept[chunk]
                if total is not None:
                    total += slopes.T @ h.to(word.device)  # where h is zero if not kept
    count = kept.sum()
    return torch.where(kept, losses, 0).sum() / count, (for_hidden, *for_pieces, count)


def _project(h: Tensor, word: Tensor, columns: Tensor) -> None:
    """Logits of one piece, into their columns of the buffer."""
    if (word.dtype, word.device) == (columns.dtype, columns.device):
        torch.mm(h, word.T, out=columns)
    else:
        columns.copy_(torch.mm(h.to(word.device), word.T))


def _backward(
    needed: Sequence[bool],  # noqa: ARG001
    saved: Sequence[Tensor],
    args: Sequence[Any],
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    *gradients, count = saved
    scale = grad / count.clamp(min=1)  # of no rows, the gradients are zero
    hidden, _, _, *pieces = args
    for_hidden, *for_pieces = (
        None if gradient is None else (gradient * scale.to(gradient.device)).to(one.dtype).view(one.shape)
        for gradient, one in zip(gradients, (hidden, *pieces), strict=True)
    )
    return for_hidden, None, None, *for_pieces


_chunked = analytic(_formula, _forward, _backward)

"""LAMB's op, which a device plugin can replace; on the CPU its reference steps at the memory limit."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor

from athena_core import op
from athena_optim._lamb_math import Options, contiguous, fused_adam_, lamb_lists

# From so many elements on a tensor is worth its own calls on the CPU, and it is worked on in such pieces.
_LARGE, _PIECE = 2**16, 2**18
# Dtypes whose sum of squares is a dot product, twice as fast as a norm.
_DOT = frozenset({torch.float32, torch.float64})


def _one(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    norm: Tensor | None,
    o: Options,
    scratch: Tensor | None,
) -> None:
    """`lamb_loop` for one contiguous tensor on the CPU, whose update goes to scratch memory.

    Memory traffic decides the time. Gradient and moments are read and written once. Weights are read for
    both norms, backwards by pieces that stay in the cache, so that the end of the update is still there;
    and once more, forwards, to be changed.
    """
    count = param.numel()
    if scratch is None or scratch.dtype != param.dtype or scratch.numel() < count:
        scratch = param.new_zeros(count)
    update, weight = scratch[:count], param.view(-1)
    fused_adam_([update], [grad if norm is None else grad / norm], [exp_avg], [exp_avg_sq], [step], o)
    pieces = [(update, weight)]
    if count > _PIECE:
        pieces = list(zip(update.split(_PIECE), weight.split(_PIECE), strict=True))
    square = torch.dot if param.dtype in _DOT else _square
    update_square = weight_square = 0.0
    for u, w in reversed(pieces):
        weight_square += square(w, w).item()
        if o.weight_decay != 0:
            u.add_(w, alpha=o.weight_decay)
        update_square += square(u, u).item()
    ratio = 1.0
    if o.adapt and weight_square > 0 and update_square > 0:
        ratio = min(max(sqrt(weight_square) / sqrt(update_square), o.min_ratio), o.max_ratio)
    for u, w in pieces:
        w.add_(u, alpha=-float(o.lr) * ratio)
    if not isfinite(update_square):
        scratch.zero_()


def _square(tensor: Tensor, _: Tensor) -> Tensor:
    """Sum of squares of a dtype whose dot product would be rounded to it."""
    return torch.linalg.vector_norm(tensor, dtype=torch.float32).square()


def _reference(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    norm: Tensor | None,
    scratch: Tensor | None,
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
    """LAMB's step for lists of tensors; ``steps`` count it already, and may be on the CPU."""
    o = Options(lr, beta1, beta2, eps, weight_decay, bias_correction, adapt, min_ratio, max_ratio, maximize)
    lists = (params, grads, exp_avgs, exp_avg_sqs, steps)
    small: list[int] = []
    for index, tensors in enumerate(zip(*lists, strict=True)):
        if tensors[0].numel() >= _LARGE and params[index].device.type == "cpu" and contiguous(tensors[:4]):
            _one(*tensors, norm, o, scratch)
        else:
            small.append(index)
    if small:
        lamb_lists(*([one[i] for i in small] for one in lists), norm=norm, o=o, fused=True)


def _samples(device: str, dtype: torch.dtype, generator: torch.Generator) -> Iterator[tuple[Any, ...]]:
    """Lists of odd, empty and zero tensors, in the second step of training."""

    def draw() -> list[Tensor]:
        return [torch.randn(s, generator=generator, dtype=torch.float64).to(device, dtype) for s in shapes]

    for shapes, decay, correction, adapt, high, maximize, scaled in (
        ([(7, 5), (3,), (), (0,), (1, 1), (130, 33)], 0.0, True, True, 1e9, False, False),
        ([(7, 5), (3,), (), (0,), (1, 1), (130, 33)], 0.1, True, True, 10.0, True, True),
        ([(5, 2), (3,)], 0.1, False, False, 1e9, False, False),
    ):
        params, grads, moments = draw(), draw(), draw()
        squares = [one.square() for one in draw()]
        params[1].zero_()
        steps = [torch.full((), 2.0, device=device) for _ in shapes]
        norm = torch.full((), 3.0, device=device, dtype=dtype) if scaled else None
        rates = (0.01, 0.9, 0.99, 1e-6, decay)
        yield (
            params,
            grads,
            moments,
            squares,
            steps,
            norm,
            None,
            *rates,
            correction,
            adapt,
            0.0,
            high,
            maximize,
        )


lamb_ = op(
    "athena_optim::lamb_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] exp_avg_sqs, Tensor[] steps, Tensor? norm, Tensor(d!)? scratch, float lr, float beta1, "
    "float beta2, float eps, float weight_decay, bool bias_correction, bool adapt, float min_ratio, "
    "float max_ratio, bool maximize) -> ()",
    reference=_reference,
    samples=_samples,
)

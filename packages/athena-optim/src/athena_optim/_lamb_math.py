"""LAMB's arithmetic: one tensor, lists of tensors, and the op that a device plugin can replace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from athena_core import op
from athena_optim._base import add_scaled, scale
from athena_optim._buckets import buckets, norms

_FUSED_ADAM = frozenset({"cpu", "cuda", "mps", "xpu"})
# From so many elements on a tensor is worth its own calls on the CPU, and it is worked on in such pieces.
_LARGE, _PIECE = 2**16, 2**18
# Dtypes whose sum of squares is a dot product, twice as fast as a norm.
_DOT = frozenset({torch.float32, torch.float64})
# After so many steps the factors of Adam's bias correction are 1.
_LONG_AGO = 1e30


class Options(NamedTuple):
    """Options of one group's step, as `athena_optim.Lamb` names them."""

    lr: float | Tensor
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    bias_correction: bool
    adapt: bool
    min_ratio: float
    max_ratio: float
    maximize: bool


def trust_ratio(weight_norm: Tensor, update_norm: Tensor, low: float, high: float) -> Tensor:
    """Norm of the weights over that of the update, bounded; 1 where either is 0, decided on the device.

    >>> trust_ratio(torch.tensor([2.0, 0.0, 9.0]), torch.tensor([4.0, 1.0, 0.0]), 0.0, 10.0)
    tensor([0.5000, 1.0000, 1.0000])
    """
    both = (weight_norm > 0) & (update_norm > 0)
    ratio = weight_norm / torch.where(both, update_norm, 1.0)
    return torch.where(both, ratio.clamp(low, high), 1.0)


def lamb_loop(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    norm: Tensor | None,
    o: Options,
    *,
    capturable: bool,
) -> None:
    """LAMB's formula for one tensor, its state changed in place; ``step`` counts this step already."""
    if norm is not None:
        grad = grad / norm.to(grad.device)
    if o.maximize:
        grad = -grad
    exp_avg.lerp_(grad, 1 - o.beta1)
    exp_avg_sq.mul_(o.beta2).addcmul_(grad, grad, value=1 - o.beta2)
    dtype = torch.promote_types(param.dtype, torch.float32)
    t = step.to(dtype) if capturable else step.item()
    corrections = (1 - o.beta1**t, 1 - o.beta2**t) if o.bias_correction else (1, 1)
    weights = param.clone() if torch.is_grad_enabled() else param  # a graph keeps what it was made with
    update = (exp_avg / corrections[0]) / ((exp_avg_sq / corrections[1]).sqrt() + o.eps)
    if o.weight_decay != 0:
        update = update + o.weight_decay * weights
    if o.adapt:
        weight_norm, update_norm = (torch.linalg.vector_norm(one, dtype=dtype) for one in (weights, update))
        ratio = trust_ratio(weight_norm, update_norm, o.min_ratio, o.max_ratio)
        update = update * ratio.to(update.dtype)
    param.sub_(o.lr * update)


def lamb_lists(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    norm: Tensor | None,
    o: Options,
    *,
    capturable: bool = False,
    fused: bool = False,
) -> None:
    """`lamb_loop` for lists, on the local parts of sharded tensors.

    Args:
        fused: let torch's fused Adam find the updates, where there is one.
    """
    for places, *tensors in buckets(params, grads, exp_avgs, exp_avg_sqs, cut=False):
        weights, gradients, moments, squares = tensors
        times = [steps[i] for i in places]
        with_adam = fused and _suits_fused_adam(tensors)
        if norm is not None:
            gradients = torch._foreach_div(gradients, norm.to(gradients[0].device))
        if with_adam:
            updates = _fused_updates(gradients, moments, squares, times, o)
        else:
            updates = _updates(gradients, moments, squares, times, o, capturable=capturable)
        if o.weight_decay != 0:
            torch._foreach_add_(updates, weights, alpha=o.weight_decay)
        if o.adapt:
            wholes = [params[i] for i in places]
            weight_norms, update_norms = norms(wholes, weights), norms(wholes, updates)
            ratios = trust_ratio(weight_norms, update_norms, o.min_ratio, o.max_ratio)
            on_host = ratios.device.type == "cpu" and not capturable
            scale(updates, ratios.tolist() if on_host else list(ratios.unbind()))
        add_scaled(weights, updates, -o.lr)


def _updates(
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    o: Options,
    *,
    capturable: bool,
) -> list[Tensor]:
    """Adam's direction of a list; both moments are changed in place."""
    if o.maximize:
        grads = torch._foreach_neg(grads)
    torch._foreach_lerp_(exp_avgs, grads, 1 - o.beta1)
    scale(exp_avg_sqs, o.beta2)
    torch._foreach_addcmul_(exp_avg_sqs, grads, grads, value=1 - o.beta2)
    dtype = torch.promote_types(exp_avgs[0].dtype, torch.float32) if capturable else None
    updates = torch._foreach_div(exp_avg_sqs, _corrections(o.beta2, steps, o, dtype))
    torch._foreach_sqrt_(updates)
    torch._foreach_add_(updates, o.eps)
    torch._foreach_reciprocal_(updates)
    torch._foreach_mul_(updates, exp_avgs)
    scale(updates, [1 / one for one in _corrections(o.beta1, steps, o, dtype)])
    return updates


def _corrections(beta: float, steps: list[Tensor], o: Options, dtype: torch.dtype | None) -> list[Any]:
    """Factors of bias correction: numbers, or tensors of a dtype, which the host need not wait for."""
    if not o.bias_correction:
        return [1.0] * len(steps)
    if dtype is None:
        return [1 - beta ** step.item() for step in steps]
    return [1 - beta ** step.to(dtype) for step in steps]


def _suits_fused_adam(tensors: Sequence[Sequence[Tensor]]) -> bool:
    first = tensors[0][0]
    return first.device.type in _FUSED_ADAM and first.is_floating_point() and all(map(_contiguous, tensors))


def _contiguous(tensors: Sequence[Tensor]) -> bool:
    return all(map(Tensor.is_contiguous, tensors))


def _fused_adam_(
    updates: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    o: Options,
) -> None:
    """Write Adam's direction over ``updates``, which must be finite; both moments are changed in place.

    The kernel does ``x <- (1 - lr * weight_decay) * x - lr * direction``; both factors are chosen to be 1.
    """
    torch._fused_adamw_(
        updates,
        grads,
        exp_avgs,
        exp_avg_sqs,
        [],
        steps if o.bias_correction else [torch.full_like(step, _LONG_AGO) for step in steps],
        amsgrad=False,
        lr=-1.0,
        beta1=o.beta1,
        beta2=o.beta2,
        weight_decay=-1.0,
        eps=o.eps,
        maximize=o.maximize,
    )


def _fused_updates(
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    o: Options,
) -> list[Tensor]:
    updates = [torch.zeros_like(one) for one in exp_avgs]
    _fused_adam_(updates, grads, exp_avgs, exp_avg_sqs, steps, o)
    return updates


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
    _fused_adam_([update], [grad if norm is None else grad / norm], [exp_avg], [exp_avg_sq], [step], o)
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
        w.add_(u, alpha=-o.lr * ratio)
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
    """LAMB's step for lists of tensors; ``steps`` count it already."""
    o = Options(lr, beta1, beta2, eps, weight_decay, bias_correction, adapt, min_ratio, max_ratio, maximize)
    lists = (params, grads, exp_avgs, exp_avg_sqs, steps)
    small: list[int] = []
    for index, tensors in enumerate(zip(*lists, strict=True)):
        if tensors[0].numel() >= _LARGE and params[index].device.type == "cpu" and _contiguous(tensors[:4]):
            _one(*tensors, norm, o, scratch)
        else:
            small.append(index)
    if small:
        lamb_lists(*([one[i] for i in small] for one in lists), norm, o, fused=True)


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

"""LAMB's arithmetic: of one tensor, and of lists of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from athena_optim._base import add_scaled, scale
from athena_optim._buckets import FUSED_DEVICES, Tensors, buckets, norms

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
        with_adam = fused and suits_fused_adam(tensors)
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
    grads: Tensors,
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    o: Options,
    *,
    capturable: bool,
) -> Tensors:
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


def suits_fused_adam(tensors: Sequence[Sequence[Tensor]]) -> bool:
    """Whether torch's fused kernel takes these lists: its devices, and tensors without gaps."""
    first = tensors[0][0]
    return first.device.type in FUSED_DEVICES and first.is_floating_point() and all(map(contiguous, tensors))


def contiguous(tensors: Sequence[Tensor]) -> bool:
    """Whether all of them are."""
    return all(map(Tensor.is_contiguous, tensors))


def fused_adam_(
    updates: list[Tensor],
    grads: Tensors,
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    o: Options,
) -> None:
    """Write Adam's direction over ``updates``, which must be finite; both moments are changed in place.

    The kernel does ``x <- (1 - lr * weight_decay) * x - lr * direction``, and ``lr`` and ``weight_decay``
    are chosen so that the first factor is 0 (of which infinity would make NaN) and ``-lr`` is 1.
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
    grads: Tensors,
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    o: Options,
) -> list[Tensor]:
    updates = [torch.zeros_like(one) for one in exp_avgs]
    steps = [step.to(updates[0].device) for step in steps]  # loaded ones may be on the CPU still
    fused_adam_(updates, grads, exp_avgs, exp_avg_sqs, steps, o)
    return updates

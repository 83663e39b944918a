"""A kernel of the op `athena_optim::adamw_` as a device plugin would offer one: here, AdamW by loops."""

from __future__ import annotations

import torch
from torch import Tensor


def kernel(
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
    for param, grad, exp_avg, exp_avg_sq, step in zip(
        params, grads, exp_avgs, exp_avg_sqs, steps, strict=True
    ):
        grad = -grad if maximize else grad
        exp_avg.lerp_(grad, 1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        step = step.to(torch.promote_types(param.dtype, torch.float32))
        root = (exp_avg_sq / (1 - beta2**step)).sqrt() + eps
        param.mul_(1 - lr * weight_decay).sub_(lr / (1 - beta1**step) * exp_avg / root)

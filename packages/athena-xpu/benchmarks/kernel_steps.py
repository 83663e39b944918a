"""Steps of optimizers over lists of tensors for bench_kernels.py, and torch's list ops to compile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import torch
from kernel_cases import Draw
from torch import Tensor

LR, BETA1, BETA2, EPS, DECAY, STEP = 1e-3, 0.9, 0.999, 1e-8, 0.01, 3
FIRST, SECOND = 1 - BETA1**STEP, sqrt(1 - BETA2**STEP)

Lists = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Step:
    """An optimizer's step: its op, what follows the five lists, what it moves, and torch's own ops."""

    op: str
    options: tuple[Any, ...]
    elements_moved: int  # times the size of an element: what is read and written of a parameter
    plain: Callable[..., None]


def lists(draw: Draw, count: int, size: int) -> Lists:
    """Parameters, gradients and both moments, as after some steps."""
    params, grads, moments = ([draw.floats(size) for _ in range(count)] for _ in range(3))
    return params, grads, moments, [draw.floats(size).square_() for _ in range(count)]


def steps(like: list[Tensor]) -> list[Tensor]:
    return [torch.full((), float(STEP), device=one.device) for one in like]


def _moments(grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor]) -> list[Tensor]:
    """Change the moments and return the direction's divisor."""
    torch._foreach_lerp_(exp_avgs, grads, 1 - BETA1)
    torch._foreach_mul_(exp_avg_sqs, BETA2)
    torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - BETA2)
    divisor = torch._foreach_sqrt(exp_avg_sqs)
    torch._foreach_mul_(divisor, FIRST / SECOND)
    torch._foreach_add_(divisor, FIRST * EPS)
    return list(divisor)


def plain_adamw(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor]
) -> None:
    torch._foreach_mul_(params, 1 - LR * DECAY)
    torch._foreach_addcdiv_(params, exp_avgs, _moments(grads, exp_avgs, exp_avg_sqs), -LR)


def plain_lamb(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor]
) -> None:
    divisor = _moments(grads, exp_avgs, exp_avg_sqs)
    updates = torch._foreach_div(exp_avgs, divisor)
    torch._foreach_add_(updates, params, alpha=DECAY)
    ratios = torch._foreach_div(torch._foreach_norm(params), torch._foreach_norm(updates))
    torch._foreach_mul_(updates, list(ratios))
    torch._foreach_add_(params, updates, alpha=-LR)


STEPS = [
    Step("athena_optim::adamw_", (LR, BETA1, BETA2, EPS, DECAY, False), 7, plain_adamw),
    Step(
        "athena_optim::lamb_",
        (None, None, LR, BETA1, BETA2, EPS, DECAY, True, True, 0.0, inf, False),
        10,
        plain_lamb,
    ),
]

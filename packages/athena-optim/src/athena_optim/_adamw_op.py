"""AdamW's op, which a device plugin can replace: torch's step of lists of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from athena_core import op
from athena_optim._buckets import FUSED_DEVICES, in_order


def _reference(
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
    """AdamW's step for lists of tensors of one device; ``steps`` count it already, and may be on the CPU.

    It is torch's fused step where there is one, and which knows no strides; else what torch chooses.
    """
    lists = (params, grads, exp_avgs, exp_avg_sqs)
    options: dict[str, Any] = {
        "lr": lr,
        "beta1": beta1,
        "beta2": beta2,
        "weight_decay": weight_decay,
        "eps": eps,
        "maximize": maximize,
    }
    if not params:
        return
    device = params[0].device
    if device.type in FUSED_DEVICES and in_order(*lists):
        times = steps if device.type == "cpu" else [step.to(device) for step in steps]
        torch._fused_adamw_(*lists, [], times, amsgrad=False, **options)
    else:  # which counts the step itself
        times = [step - 1 for step in steps]
        adamw(params, grads, exp_avgs, exp_avg_sqs, [], times, amsgrad=False, **options)


def _samples(device: str, dtype: torch.dtype, generator: torch.Generator) -> Iterator[tuple[Any, ...]]:
    """Lists of odd and empty tensors; each tensor is in a step of its own."""

    def draw() -> list[Tensor]:
        return [torch.randn(s, generator=generator, dtype=torch.float64).to(device, dtype) for s in shapes]

    for shapes, decay, maximize in (
        ([(7, 5), (3,), (), (0,), (1, 1), (130, 33)], 0.0, False),
        ([(7, 5), (3,), (), (0,), (1, 1), (130, 33)], 0.1, True),
        ([(5, 2), (3,)], 0.1, False),
    ):
        params, grads, moments = draw(), draw(), draw()
        squares = [one.square() for one in draw()]
        steps = [torch.full((), 2.0 + place, device=device) for place in range(len(shapes))]
        yield params, grads, moments, squares, steps, 0.01, 0.9, 0.99, 1e-6, decay, maximize


adamw_ = op(
    "athena_optim::adamw_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] exp_avg_sqs, Tensor[] steps, float lr, float beta1, float beta2, float eps, "
    "float weight_decay, bool maximize) -> ()",
    reference=_reference,
    samples=_samples,
)

"""A kernel of the op `athena_optim::lamb_` as a device plugin would offer one: here, LAMB by loops."""

from __future__ import annotations

from torch import Tensor

from athena_optim._lamb_math import Options, lamb_loop


def kernel(
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
    options = Options(
        lr, beta1, beta2, eps, weight_decay, bias_correction, adapt, min_ratio, max_ratio, maximize
    )
    for tensors in zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True):
        lamb_loop(*tensors, norm, options, capturable=True)

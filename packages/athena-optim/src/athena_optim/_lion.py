"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from athena_optim._base import Base, add_scaled, scalar, scale
from athena_optim._buckets import buckets
from athena_optim._checks import NonFinite


class Lion(Base):
    r"""Lion: steps of one size, whose signs come from an interpolation of momentum and gradient.

    .. math::
        \theta_t &= (1 - \eta\lambda)\,\theta_{t-1}
            - \eta\,\mathrm{sign}\big(\beta_1 m_{t-1} + (1-\beta_1) g_t\big) \\
        m_t &= \beta_2 m_{t-1} + (1-\beta_2) g_t

    One state tensor a parameter. Good learning rates are 3 to 10 times smaller than AdamW's, and decay
    as many times larger.

    Args:
        params: parameters, or groups such as `athena_optim.param_groups` makes.
        lr: learning rate :math:`\eta`.
        betas: :math:`(\beta_1, \beta_2)`.
        weight_decay: decoupled decay :math:`\lambda`.
        maximize: climb instead of descending.
        foreach: list ops on buckets of tensors; None chooses them unless ``differentiable``.
        capturable: allow capture in a CUDA graph; nothing changes, since no step is counted.
        differentiable: let autograd run through the step.
        nonfinite: what a NaN or infinite gradient does: ``"raise"``, ``"skip"``, ``"zero"``; None does
            not look.

    Raises ValueError for options outside their ranges, RuntimeError for sparse or complex gradients and
    for ``foreach`` together with ``differentiable``.
    Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2. Departs from it: no.

    >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> optimizer = Lion([weight], lr=0.1)
    >>> (weight**2).sum().backward()
    >>> optimizer.step()
    >>> weight.data
    tensor([ 0.9000, -1.9000])
    """

    state_names = frozenset({"exp_avg"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        nonfinite: NonFinite | None = None,
    ) -> None:
        options = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, options, nonfinite=nonfinite)

    def new_state(self, param: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The momentum, 0 at first."""
        return {"exp_avg": torch.zeros_like(param, memory_format=torch.preserve_format)}

    def update(
        self,
        group: Mapping[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Any]],
    ) -> None:
        """One step of a group."""
        exp_avgs = [state["exp_avg"] for state in states]
        beta1, beta2 = group["betas"]
        lr, weight_decay, maximize = scalar(group["lr"], group), group["weight_decay"], group["maximize"]
        if group["foreach"] is False or group["differentiable"]:
            for param, grad, exp_avg in zip(params, grads, exp_avgs, strict=True):
                gradient = -grad if maximize else grad
                direction = exp_avg.lerp(gradient, 1 - beta1).sign()
                param.mul_(1 - lr * weight_decay).add_(direction * -lr)
                exp_avg.lerp_(gradient, 1 - beta2)
            return
        for _, weights, gradients, moments in buckets(params, grads, exp_avgs):
            signed = torch._foreach_neg(gradients) if maximize else gradients
            directions = torch._foreach_lerp(moments, signed, 1 - beta1)
            torch._foreach_sign_(directions)
            scale(weights, 1 - lr * weight_decay)
            add_scaled(weights, directions, -lr)
            torch._foreach_lerp_(moments, signed, 1 - beta2)

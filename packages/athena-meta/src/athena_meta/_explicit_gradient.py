"""A loss whose gradient is already known: computed part by part, with the memory of one part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _ExplicitGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        gradients: Sequence[Tensor | None],
        *parameters: Tensor,  # noqa: ARG004
    ) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        scaled = (None if gradient is None else grad * gradient for gradient in ctx.gradients)
        return None, None, *scaled


def with_gradients(value: Tensor, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """``value`` as a function of ``parameters`` that has these ``gradients``; None for no dependence.

    ``backward()``, ``torch.autograd.grad`` and DistributedDataParallel see a loss like any other. It has no
    second derivative, and asking for one raises.

    >>> weight = torch.tensor(2.0, requires_grad=True)
    >>> (3 * with_gradients(torch.tensor(5.0), [torch.tensor(7.0)], [weight])).backward()
    >>> weight.grad
    tensor(21.)
    """
    result = _ExplicitGradient.apply(value.detach(), gradients, *parameters)
    assert result is not None
    return result

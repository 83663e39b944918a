"""LayerNorm: one read, one write; backward recomputes mean and deviation, in two reads and one write."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from athena_xpu.kernels._norms import norm_backward, norm_forward, norm_supports


def supports(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> bool:  # noqa: ARG001
    return norm_supports(x, None, weight, bias)


def run(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    return norm_forward(x, None, weight, bias, eps=eps, centred=True)[1]


class Formula:
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, weight, bias, ctx.eps = inputs
        ctx.biased = bias is not None
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        found = norm_backward(grad, None, x, None, weight, ctx.eps, True, ctx.biased)
        dx, _, dweight, dbias = found
        return dx, dweight, dbias if ctx.biased else None, None

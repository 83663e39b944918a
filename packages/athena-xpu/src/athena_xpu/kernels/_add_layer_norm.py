"""A sum and its LayerNorm: two reads, two writes, where the sum and the norm apart take five passes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from athena_xpu.kernels._norms import added_gradients, norm_forward, norm_supports


def supports(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> bool:  # noqa: ARG001
    return norm_supports(x, residual, weight, bias)


def run(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    return norm_forward(x, residual, weight, bias, eps=eps, centred=True)


class Formula:
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ARG004
        x, residual, weight, bias, ctx.eps = inputs
        ctx.biased = bias is not None
        ctx.save_for_backward(x, residual, weight)  # the sum is summed again rather than kept
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        found = added_gradients(grads, ctx.saved_tensors, ctx.eps, centred=True, biased=ctx.biased)
        return (*found, None)

"""A sum and its RMSNorm: two reads, two writes, where the sum and the norm apart take five passes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from athena_xpu.kernels._norms import added_gradients, norm_forward, norm_supports


def supports(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> bool:  # noqa: ARG001
    return norm_supports(x, residual, weight, None)


def run(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return norm_forward(x, residual, weight, None, eps=eps, centred=False)


class Formula:
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ARG004
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors)  # the sum is summed again rather than kept
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        found = added_gradients(grads, ctx.saved_tensors, ctx.eps, centred=False, biased=False)
        return (*found[:3], None)

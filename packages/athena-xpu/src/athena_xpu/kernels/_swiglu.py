"""SwiGLU: one read of gate and up, one write."""

from __future__ import annotations

from functools import partial
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from athena_xpu.kernels._gated import run_gated, run_gated_backward, supports_gated, tile
from athena_xpu.kernels._launch import backward_op


def supports(gate_up: Tensor) -> bool:
    return supports_gated(gate_up)


def run(gate_up: Tensor) -> Tensor:
    return run_gated(_forward, gate_up)


@triton.jit
def _forward(x, y, rows, width, stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row, column, inside = tile(rows, width, ROWS, BLOCK)
    gate = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * stride + width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * width + column, gate * tl.sigmoid(gate) * up, mask=inside)


@triton.jit
def _backward(x, dy, dx, rows, width, stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """With s the sigmoid of the gate g: dg = dy u s (1 + g (1 - s)), du = dy g s."""
    row, column, inside = tile(rows, width, ROWS, BLOCK)
    gate = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * stride + width + column, mask=inside, other=0.0).to(tl.float32)
    slope = tl.load(dy + row * width + column, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    tl.store(dx + row * 2 * width + column, slope * up * (sigmoid + silu * (1 - sigmoid)), mask=inside)
    tl.store(dx + row * 2 * width + width + column, slope * silu, mask=inside)


swiglu_backward = backward_op(
    "swiglu_backward(Tensor grad, Tensor gate_up) -> Tensor",
    partial(run_gated_backward, _backward),
    lambda _, gate_up: gate_up.new_empty(gate_up.shape),
)


class Formula:
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return swiglu_backward(grad, ctx.saved_tensors[0])

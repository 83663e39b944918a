"""GEGLU, with the exact normal distribution function: one read of gate and up, one write."""

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
def _below(x):
    """The share of a standard normal distribution below x."""
    return 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)


@triton.jit
def _forward(x, y, rows, width, stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row, column, inside = tile(rows, width, ROWS, BLOCK)
    gate = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * stride + width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * width + column, gate * _below(gate) * up, mask=inside)


@triton.jit
def _backward(x, dy, dx, rows, width, stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """With P the normal distribution function, p its density: dg = dy u (P(g) + g p(g)), du = dy g P(g)."""
    row, column, inside = tile(rows, width, ROWS, BLOCK)
    gate = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * stride + width + column, mask=inside, other=0.0).to(tl.float32)
    slope = tl.load(dy + row * width + column, mask=inside, other=0.0).to(tl.float32)
    below = _below(gate)
    density = 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    tl.store(dx + row * 2 * width + column, slope * up * (below + gate * density), mask=inside)
    tl.store(dx + row * 2 * width + width + column, slope * gate * below, mask=inside)


geglu_backward = backward_op(
    "geglu_backward(Tensor grad, Tensor gate_up) -> Tensor",
    partial(run_gated_backward, _backward),
    lambda _, gate_up: gate_up.new_empty(gate_up.shape),
)


class Formula:
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return geglu_backward(grad, ctx.saved_tensors[0])

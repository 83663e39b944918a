"""SwiGLU: one read of gate and up, one write."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from athena_xpu.kernels._launch import DTYPES, backward_op, block_of, in_rows, launch, row_stride


def supports(gate_up: Tensor) -> bool:
    return gate_up.dtype in DTYPES and in_rows(gate_up) and gate_up.shape[-1] % 2 == 0


def run(gate_up: Tensor) -> Tensor:
    width = gate_up.shape[-1] // 2
    y = gate_up.new_empty(*gate_up.shape[:-1], width)
    if y.numel():
        block, warps = block_of(width)
        grid = (y.numel() // width, triton.cdiv(width, block))
        launch(_forward, grid, gate_up, y, width, row_stride(gate_up), BLOCK=block, num_warps=warps, on=y)
    return y


@triton.jit
def _forward(x, y, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * stride + width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * width + column, gate * tl.sigmoid(gate) * up, mask=inside)


@triton.jit
def _backward(x, dy, dx, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * stride + width + column, mask=inside, other=0.0).to(tl.float32)
    slope = tl.load(dy + row * width + column, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    tl.store(dx + row * 2 * width + column, slope * up * (sigmoid + silu * (1 - sigmoid)), mask=inside)
    tl.store(dx + row * 2 * width + width + column, slope * silu, mask=inside)


def _run_backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    width = grad.shape[-1]
    dx = torch.empty(gate_up.shape, dtype=gate_up.dtype, device=gate_up.device)
    if dx.numel():
        block, warps = block_of(width)
        grid = (dx.numel() // (2 * width), triton.cdiv(width, block))
        grad = grad.contiguous()
        stride = row_stride(gate_up)
        launch(_backward, grid, gate_up, grad, dx, width, stride, BLOCK=block, num_warps=warps, on=dx)
    return dx


swiglu_backward = backward_op(
    "swiglu_backward(Tensor grad, Tensor gate_up) -> Tensor",
    _run_backward,
    lambda _, gate_up: gate_up.new_empty(gate_up.shape),
)


class Formula:
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return swiglu_backward(grad, ctx.saved_tensors[0])

"""What swiglu and geglu share: a row is gate and up side by side, read once; the result is half as wide."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from athena_xpu.kernels._launch import DTYPES, in_rows, launch, row_stride, tile_of


def supports_gated(gate_up: Tensor) -> bool:
    return gate_up.dtype in DTYPES and in_rows(gate_up) and gate_up.shape[-1] % 2 == 0


def run_gated(kernel: Any, gate_up: Tensor) -> Tensor:
    """The gated half of a tensor: ``kernel(x, y, rows, width, stride)``, tile by tile."""
    width = gate_up.shape[-1] // 2
    y = gate_up.new_empty((*gate_up.shape[:-1], width))
    if y.numel():
        _launch(kernel, gate_up, y, rows=y.numel() // width, width=width, stride=row_stride(gate_up))
    return y


def run_gated_backward(kernel: Any, grad: Tensor, gate_up: Tensor) -> Tensor:
    """The gradient of both halves, dense: ``kernel(x, dy, dx, rows, width, stride)``, tile by tile."""
    width = grad.shape[-1]
    dx = torch.empty(gate_up.shape, dtype=gate_up.dtype, device=gate_up.device)
    if dx.numel():
        rows, stride = grad.numel() // width, row_stride(gate_up)
        _launch(kernel, gate_up, grad.contiguous(), dx, rows=rows, width=width, stride=stride)
    return dx


def _launch(kernel: Any, *tensors: Tensor, rows: int, width: int, stride: int) -> None:
    tall, wide, warps = tile_of(rows, width)
    grid = (triton.cdiv(rows, tall), triton.cdiv(width, wide))
    launch(kernel, grid, *tensors, rows, width, stride, ROWS=tall, BLOCK=wide, num_warps=warps, on=tensors[0])


@triton.jit
def tile(rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Rows, columns and what of them lies inside. Rows in 64 bits: times a stride they pass 2^31."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    return row, column, (row < rows) & (column < width)

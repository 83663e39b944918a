"""What the norms share: which tensors they take, how they are launched, and their gradient."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from athena_xpu.kernels import _norm_rows
from athena_xpu.kernels._launch import DTYPES, backward_op, in_rows, launch, row_stride

WHOLE = 8192  # widest row that is held in registers and so read once
WALKED = 4096  # columns that are taken at a time of a wider one
WIDEST = 2**30  # columns are counted in 32 bits
#: Programs of the backward pass: enough for a large device, and no more than this for any.
LEAST_PROGRAMS, MOST_PROGRAMS = 128, 1024


def norm_supports(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the kernels take these, and would answer in the dtype and layout of the reference."""
    dtype, device = x.dtype, x.device
    if dtype not in DTYPES or not in_rows(x) or x.shape[-1] > WIDEST:
        return False
    if residual is not None:
        if residual.dtype not in DTYPES or residual.shape != x.shape or not in_rows(residual):
            return False
        if residual.device != device:
            return False
        dtype = torch.promote_types(dtype, residual.dtype)
    for one in (weight,) if bias is None else (weight, bias):
        if one.dtype is not dtype or one.shape != x.shape[-1:] or not one.is_contiguous():
            return False
        if one.device != device:
            return False
    # Under autocast, references may answer in float32 to half precision.
    return dtype is torch.float32 or not torch.is_autocast_enabled(device.type)


class Plan(NamedTuple):
    """How rows are dealt out to programs."""

    walked: bool
    n_tiles: int
    meta: dict[str, int]  # of a launch
    n_programs: int  # of the backward pass, each with as many rows in turn
    per_program: int


@lru_cache(1024)
def plan(n_rows: int, width: int) -> Plan:
    """Deal out rows by their sizes alone, whatever the device, so that results are the same on each.

    Narrow rows are taken several at a time. The backward pass has enough programs for a large device,
    while their shares of the weight's gradient stay small beside the rows.
    """
    walked = width > WHOLE
    block = WALKED if walked else max(16, triton.next_power_of_2(width))
    rows = 1 if walked else max(1, 2048 // block)
    n_tiles = triton.cdiv(n_rows, rows)
    n_programs = min(n_tiles, max(LEAST_PROGRAMS, min(MOST_PROGRAMS, n_rows // 32)))
    per_program = triton.cdiv(n_tiles, n_programs) * rows
    warps = max(1, min(16, rows * block // 256))
    meta = {"ROWS": rows, "BLOCK": block, "num_warps": warps}
    return Plan(walked, n_tiles, meta, triton.cdiv(n_rows, per_program), per_program)


def _sizes(x: Tensor, residual: Tensor | None) -> tuple[int, int, int, int]:
    """Rows, width, and the distances of rows of x and of the residual."""
    width = x.shape[-1]
    return x.numel() // width, width, row_stride(x), 0 if residual is None else row_stride(residual)


def norm_forward(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, *, eps: float, centred: bool
) -> tuple[Tensor, Tensor]:
    """Return the sum (``x`` itself where no residual is added), and its norm."""
    y = torch.empty(x.shape, dtype=weight.dtype, device=x.device)
    total = x if residual is None else torch.empty_like(y)
    if y.numel():
        sizes = _sizes(x, residual)
        deal = plan(*sizes[:2])
        kernel = _norm_rows.walk if deal.walked else _norm_rows.whole
        tensors = (x, residual, None if residual is None else total, weight, bias, y)
        launch(kernel, (deal.n_tiles,), *tensors, *sizes, eps, CENTRED=centred, **deal.meta, on=y)
    return total, y


def _run_backward(
    grad: Tensor,
    grad_sum: Tensor | None,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
    centred: bool,
    biased: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dresidual, dweight, dbias = _results(grad, grad_sum, x, residual, weight, eps, centred, biased)
    if not dx.numel():
        return dx, dresidual, dweight.zero_(), dbias.zero_()
    sizes = _sizes(x, residual)
    deal = plan(*sizes[:2])
    kernel = _norm_rows.walk_backward if deal.walked else _norm_rows.whole_backward
    make = torch.zeros if deal.walked else torch.empty
    shares = make(1 + biased, deal.n_programs, x.shape[-1], dtype=torch.float32, device=x.device)
    launch(
        kernel,
        (deal.n_programs,),
        grad.contiguous(),
        None if grad_sum is None else grad_sum.contiguous(),
        x,
        residual,
        weight,
        dx,
        dresidual if dresidual.numel() else None,
        shares[0],
        shares[1] if biased else None,
        *sizes,
        eps,
        deal.per_program,
        CENTRED=centred,
        **deal.meta,
        on=x,
    )
    # Summed in one order, where atomic additions would differ from run to run.
    dweight.copy_(shares[0].sum(0))
    if biased:
        dbias.copy_(shares[1].sum(0))
    return dx, dresidual, dweight, dbias


def _results(
    grad: Tensor,
    grad_sum: Tensor | None,  # noqa: ARG001
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,  # noqa: ARG001
    centred: bool,  # noqa: ARG001
    biased: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make room for the gradients of x, the residual (none where x's serves it too), weight and bias."""
    dx = torch.empty(grad.shape, dtype=x.dtype, device=x.device)
    other = None if residual is None or residual.dtype == x.dtype else residual.dtype
    return (
        dx,
        dx.new_empty(0 if other is None else grad.shape, dtype=other),
        torch.empty_like(weight),
        torch.empty(weight.shape if biased else (0,), dtype=weight.dtype, device=x.device),
    )


norm_backward = backward_op(
    "norm_backward(Tensor grad, Tensor? grad_sum, Tensor x, Tensor? residual, Tensor weight, float eps, "
    "bool centred, bool biased) -> (Tensor, Tensor, Tensor, Tensor)",
    _run_backward,
    _results,
)


def added_gradients(
    grads: tuple[Tensor | None, ...], saved: tuple[Tensor, ...], eps: float, *, centred: bool, biased: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of x, the residual, weight and bias, from those of the sum and of its norm."""
    grad_sum, grad = grads
    x, residual, weight = saved
    if grad is None:  # only the sum was used
        assert grad_sum is not None
        zeros = torch.zeros_like(weight)
        return grad_sum.to(x.dtype), grad_sum.to(residual.dtype), zeros, zeros.clone() if biased else None
    dx, dresidual, dweight, dbias = norm_backward(grad, grad_sum, x, residual, weight, eps, centred, biased)
    same = residual.dtype == x.dtype
    return dx, dx if same else dresidual, dweight, dbias if biased else None

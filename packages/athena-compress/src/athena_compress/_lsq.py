"""Learned step size quantization: the scale and the zero point are trained with the weights."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from athena_compress._grid import SMALLEST_SCALE, Grid, rounded


class _LearnedStep(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        grid: Grid,
        gradient_scale: float,  # noqa: ARG004  of the backward pass
    ) -> Tensor:
        whole = zero_point.round().clamp(grid.low, grid.high)
        kept = rounded(x, scale, whole, grid).clamp(grid.low, grid.high)
        values = (kept - grid.aligned(whole, x.ndim)) * grid.aligned(scale, x.ndim)
        return values.to(x.dtype).reshape(x.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, scale, zero_point, ctx.grid, ctx.gradient_scale = inputs
        ctx.save_for_backward(x, scale, zero_point)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point = ctx.saved_tensors
        grid: Grid = ctx.grid
        whole = zero_point.round().clamp(grid.low, grid.high)
        codes = rounded(x, scale, whole, grid)
        kept = codes.clamp(grid.low, grid.high)
        inside = codes == kept
        step, centred = grid.aligned(scale, x.ndim), kept - grid.aligned(whole, x.ndim)
        grad = grid.grouped(grads[0]).to(codes.dtype)
        grad_scale = grad_zero_point = None
        if ctx.needs_input_grad[1]:
            slope = torch.where(inside, centred - grid.grouped(x).to(codes.dtype) / step, centred)
            grad_scale = _reduced(grad * slope, scale, grid, x.ndim) * ctx.gradient_scale
        if ctx.needs_input_grad[2]:
            moved = torch.where(inside, 0, -step * grad)
            grad_zero_point = _reduced(moved, zero_point, grid, x.ndim) * ctx.gradient_scale
        grad_x = torch.where(inside, grad, 0).to(x.dtype).reshape(x.shape)
        return grad_x, grad_scale, grad_zero_point, None, None


def _reduced(grad: Tensor, parameter: Tensor, grid: Grid, ndim: int) -> Tensor:
    shared = grad.sum_to_size(grid.aligned(parameter, ndim).shape)
    return shared.reshape(parameter.shape).to(parameter.dtype)


def lsq_fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid, *, gradient_scale: float = 1.0
) -> Tensor:
    r"""Fake quantization whose scale, and zero point if it is a float, have gradients.

    .. math::
        \hat x = s\,(\operatorname{clamp}(\operatorname{round}(x / s) + z) - z), \qquad
        \frac{\partial \hat x}{\partial s} = \begin{cases}
            \operatorname{round}(x / s) - x / s & \text{inside} \\
            q_\mathrm{low} - z \;\text{or}\; q_\mathrm{high} - z & \text{where clamped}
        \end{cases}, \qquad
        \frac{\partial \hat x}{\partial z} = \begin{cases}
            0 & \text{inside} \\ -s & \text{where clamped}
        \end{cases}

    and that of `fake_quantize` for ``x``. A float zero point is rounded to a code when it is used, so that
    0 is held exactly, and its rounding passes the gradient.

    Args:
        x: the values.
        scale: positive, shaped as the grid asks.
        zero_point: of the same shape; a float to learn it, integers to leave it.
        grid: the integers, and what shares a scale.
        gradient_scale: factor on the gradients of the scale and the zero point; `lsq_gradient_scale`.

    Shape: any -> the same. Raises ValueError where the groups do not divide the last axis.
    Source: Esser et al. 2020, arXiv:1902.08153, eq. 3 and 5; of the zero point: Bhalgat et al. 2020,
    arXiv:2004.09576, section 3, with the offset :math:`\beta = -s z`. Departs from it: the offset is a whole
    number of steps.

    >>> scale = torch.tensor(0.5, requires_grad=True)
    >>> y = lsq_fake_quantize(torch.tensor([0.3, 9.0]), scale, torch.tensor(0), Grid(bits=4))
    >>> y.sum().backward()
    >>> y.detach(), scale.grad
    (tensor([0.5000, 3.5000]), tensor(7.4000))
    """
    return _LearnedStep.apply(x, scale, zero_point, grid, gradient_scale)


def lsq_gradient_scale(n_values: int, grid: Grid) -> float:
    r"""Factor on the gradient of a scale that ``N`` values share, :math:`1 / \sqrt{N Q_P}`.

    It makes steps of the scale, relative to its size, like those of the weights. For inputs the number is
    that of the features, without the batch. :math:`Q_P` is the largest code, counted from the zero point on
    a symmetric grid.

    Source: Esser et al. 2020, arXiv:1902.08153, section 2.2. Departs from it: no.

    >>> lsq_gradient_scale(28, Grid(bits=4))
    0.07142857142857142
    """
    return 1 / sqrt(max(n_values, 1) * _reach(grid))


def lsq_initial_scale(x: Tensor, grid: Grid) -> Tensor:
    r"""The paper's first scale, :math:`2 \langle |x| \rangle / \sqrt{Q_P}`, from the first values.

    Meant for few bits: at 8 it covers several times the range of most weights.

    Shape: any -> as the grid asks, float32. Raises ValueError where the groups do not divide the last axis.
    Source: Esser et al. 2020, arXiv:1902.08153, section 2.1. Departs from it: no.

    >>> lsq_initial_scale(torch.tensor([-1.0, 3.0]), Grid(bits=3))
    tensor(2.3094)
    """
    sizes = grid.grouped(x.detach()).float().abs()
    if grid.group_size is not None:
        mean = sizes.mean(-1)
    elif grid.axis is not None:
        mean = sizes.movedim(grid.axis, 0).flatten(1).mean(1)
    else:
        mean = sizes.mean()
    return (2 * mean / sqrt(_reach(grid))).clamp_min(SMALLEST_SCALE)


def _reach(grid: Grid) -> int:
    return grid.high - (grid.low + grid.high) // 2 if grid.symmetric else grid.high

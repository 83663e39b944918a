"""Fake quantization: values rounded to what their codes stand for, with a straight-through gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from athena_compress._grid import Grid, rounded


class _StraightThrough(torch.autograd.Function):
    """Rounds to the grid; the gradient passes where the code was not clamped."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        codes = rounded(x, scale, zero_point, grid)
        kept = codes.clamp(grid.low, grid.high)
        values = (kept - grid.aligned(zero_point, x.ndim)).float() * grid.aligned(scale.float(), x.ndim)
        return values.to(x.dtype).reshape(x.shape), (codes == kept).reshape(x.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ARG004
        inside = output[1]
        ctx.mark_non_differentiable(inside)
        ctx.save_for_backward(inside)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, grads[0], 0), None, None, None


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    r"""Values as the grid holds them, :math:`\hat x = s\,(q(x) - z)`, for training.

    The gradient is that of :math:`\operatorname{clamp}(x, s(q_\mathrm{low} - z), s(q_\mathrm{high} - z))`: it
    passes the rounding unchanged, and is 0 where the code was clamped. The scale and the zero point get none;
    `lsq_fake_quantize` is for learned ones.

    Args:
        x: the values, float; numbers of 16 bits are widened to float32 and back.
        scale: shaped as the grid asks: ``()``; ``(n,)`` along its axis; ``(..., n / g)`` in groups.
        zero_point: int32, of the same shape.
        grid: the integers, and what shares a scale.

    Shape: any -> the same. Raises ValueError where the groups do not divide the last axis.
    Source: Jacob et al. 2018, arXiv:1712.05877, eq. 12; straight through: Bengio et al. 2013,
    arXiv:1308.3432. Departs from it: no.

    >>> x = torch.tensor([-9.0, 0.3, 0.8], requires_grad=True)
    >>> y = fake_quantize(x, torch.tensor(0.5), torch.tensor(0), Grid(bits=4))
    >>> y.sum().backward()
    >>> y.detach(), x.grad
    (tensor([-3.5000,  0.5000,  1.0000]), tensor([0., 1., 1.]))
    """
    return _StraightThrough.apply(x, scale, zero_point, grid)[0]

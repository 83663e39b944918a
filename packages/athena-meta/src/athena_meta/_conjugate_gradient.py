"""Conjugate gradients for many systems at once, each given by its matrix-vector product alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradient(product: Callable[[Tensor], Tensor], right: Tensor, *, steps: int) -> Tensor:
    r"""Solve :math:`A_i x_i = b_i` for symmetric positive definite :math:`A_i`, from :math:`x_i = b_i` on.

    After ``size`` steps the solution is exact but for rounding. A system stops early where its residual
    vanishes, and where it meets a direction :math:`p` with :math:`p^\top A p \le 0`: there is no minimum
    along it, and the solution stays as it is.

    Args:
        product: of all matrices with one vector each, ``(systems, size) -> (systems, size)``.
        right: :math:`b`, ``(systems, size)``.
        steps: at most; 0 returns ``right``.

    Shape: ``(systems, size) -> (systems, size)``.
    Source: Hestenes and Stiefel 1952; Steihaug 1983 for the stop at negative curvature. Departs from them:
    the start, which is right where :math:`A = I` and costs one product.

    >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    >>> solution = conjugate_gradient(lambda x: x @ matrix, torch.tensor([[3.0, 4.0]]), steps=2)
    >>> torch.allclose(solution, torch.ones(1, 2))
    True
    """
    if steps == 0:
        return right
    x = right
    residual = right - product(x)
    direction = residual
    square = residual.square().sum(1, keepdim=True)
    for _ in range(steps):
        image = product(direction)
        curvature = (direction * image).sum(1, keepdim=True)
        going = (curvature > 0) & (square > 0)
        # A system that has stopped must not divide by its zero, which would leave NaN even where unused.
        length = torch.where(going, square / torch.where(going, curvature, 1), 0)
        x = x + length * direction
        residual = residual - length * image
        square_tp1 = residual.square().sum(1, keepdim=True)
        direction = residual + torch.where(going, square_tp1 / torch.where(going, square, 1), 0) * direction
        direction = torch.where(going, direction, 0)
        square = square_tp1
    return x

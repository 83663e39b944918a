"""The two-loss problem on which balancing methods are shown, in closed form: losses, starts, Pareto front."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

#: The five points from which Nash-MTL's authors start.
STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
LOWEST = -20.0  # no loss goes below
_FLOOR = 5e-6  # of what a logarithm is taken of
_HALVINGS = 60


def toy_losses(points: Tensor) -> Tensor:
    r"""Two losses of two parameters: troughs that conflict above, two bowls below.

    .. math:: L_i = c\, f_i + \bar c\, g_i, \qquad c = \max(\tanh(\theta_2 / 2), 0), \quad
        \bar c = \max(\tanh(-\theta_2 / 2), 0)

    .. math:: f_1 = \log\max\bigl(|(-\theta_1 - 7)/2 - \tanh(-\theta_2)|, 5 \cdot 10^{-6}\bigr) + 6, \quad
        f_2 = \log\max\bigl(|(-\theta_1 + 3)/2 + \tanh(-\theta_2) + 2|, 5 \cdot 10^{-6}\bigr) + 6

    .. math:: g_{1,2} = \bigl((-\theta_1 \pm 7)^2 + 0.1\,(-\theta_2 - 8)^2\bigr) / 10 - 20

    Shape: ``(..., 2) -> (..., 2)``, the last axis being the parameters, then the losses.

    Source: Liu et al. 2021, arXiv:2110.14048, appendix. Departs from it: the sign of the hyperbolic tangent
    in :math:`f_2` is that of the authors' code.

    >>> toy_losses(torch.tensor([[0.0, -8.0], [7.0, -8.0]]))
    tensor([[-15.0899, -15.0899],
            [-19.9866,  -0.3997]])
    """
    x, y = points.unbind(-1)
    tilted, above, below = (-y).tanh(), (0.5 * y).tanh().clamp(min=0), (-0.5 * y).tanh().clamp(min=0)
    first = (0.5 * (-x - 7) - tilted).abs().clamp(min=_FLOOR).log() + 6
    second = (0.5 * (-x + 3) + tilted + 2).abs().clamp(min=_FLOOR).log() + 6
    depth = 0.1 * (y + 8).square()
    bowls = (((x + side).square() + depth) / 10 - 20 for side in (-7.0, 7.0))
    return torch.stack(
        [above * trough + below * bowl for trough, bowl in zip((first, second), bowls, strict=True)], dim=-1
    )


def toy_gradients(points: Tensor) -> tuple[Tensor, Tensor]:
    """Losses ``(..., 2)`` of points ``(..., 2)``, and their gradients ``(..., losses, parameters)``.

    >>> toy_gradients(torch.tensor([0.0, -8.0]))[1][:, 0]
    tensor([-1.3991,  1.3991])
    """
    points = points.detach().requires_grad_()
    losses = toy_losses(points)
    rows = [
        torch.autograd.grad(loss.sum(), points, retain_graph=not last)[0]
        for loss, last in zip(losses.unbind(-1), (False, True), strict=True)
    ]
    return losses.detach(), torch.stack(rows, dim=-2)


def pareto_set(count: int = 4001) -> Array:
    r"""Points that no other beats in both losses, ``(count, 2)``, from the minimum of the second to that of
    the first.

    They minimise :math:`w L_1 + (1 - w) L_2` for :math:`w \in [0, 1]`, the front being convex. There
    :math:`\theta_1 = 14 w - 7`, and :math:`\theta_2` minimises
    :math:`\tanh(-\theta_2 / 2)\,(a + (\theta_2 + 8)^2 / 100)` with :math:`a = 19.6\, w (1 - w) - 20`: its
    derivative changes sign once in [-12, -8], which is halved.

    Source: ours, from the definition of the losses.

    >>> pareto_set(3).round(2)
    array([[-7.  , -8.43],
           [ 0.  , -8.36],
           [ 7.  , -8.43]])
    """
    weight = np.linspace(0, 1, count)
    bottom = 19.6 * weight * (1 - weight) - 20
    low, high = np.full(count, -12.0), np.full(count, -8.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        steepness = np.tanh(-middle / 2)
        slope = steepness * (middle + 8) / 50 - (1 - steepness**2) * (bottom + (middle + 8) ** 2 / 100) / 2
        low, high = np.where(slope < 0, middle, low), np.where(slope < 0, high, middle)
    return np.stack([14 * weight - 7, (low + high) / 2], axis=1)


def pareto_front(count: int = 4001) -> Array:
    """The losses of `pareto_set`, ``(count, 2)``.

    >>> pareto_front(3).round(1)
    array([[ -0.4, -20. ],
           [-15.1, -15.1],
           [-20. ,  -0.4]])
    """
    return toy_losses(torch.from_numpy(pareto_set(count))).numpy()


def pareto_distance(losses: Tensor) -> Tensor:
    """How far losses ``(..., 2)`` lie from the nearest point of the front, in the plane of losses: ``(...)``.

    >>> pareto_distance(torch.tensor([-19.9866, -0.3997])) < 0.02
    tensor(True)
    """
    front = torch.from_numpy(pareto_front()).to(losses)
    return torch.cdist(losses.reshape(-1, 2), front).amin(1).reshape(losses.shape[:-1])

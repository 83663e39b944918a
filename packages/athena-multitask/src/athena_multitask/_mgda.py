"""MGDA: the shortest of all convex combinations of the gradients."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from athena_multitask._balancer import Balancer
from athena_multitask._cosines import cosines_of, weights_like
from athena_multitask._nonnegative_quadratic import nonnegative_minimum

Array = NDArray[np.float64]


class MGDA(Balancer):
    """Multiple-gradient descent: see `mgda_weights`.

    >>> import torch
    >>> MGDA().direction(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor([0.5000, 0.5000])
    """

    laws: ClassVar[frozenset[str]] = frozenset({"permutation", "scaling", "non-conflict", "stationary"})

    def weights(self, gramian: Tensor) -> Tensor:
        """Weights of the tasks, ``(tasks,)``."""
        return mgda_weights(gramian)


def mgda_weights(gramian: Tensor) -> Tensor:
    r"""Weights of the shortest vector in the convex hull of the gradients.

    .. math:: w = \arg\min_w \|J^\top w\|^2 \ \text{subject to}\ w \ge 0,\ \textstyle\sum_i w_i = 1,
        \qquad g_i^\top d \ge \|d\|^2 \ \text{for all}\ i,\ d = J^\top w

    Every task gains at least as much as the squared length of the direction, which is zero where the point is
    Pareto-stationary. With any :math:`s > 0`, the weights are those of
    :math:`\arg\min_{y \ge 0} \|J^\top y\|^2 + s^2 (1 - \sum_i y_i)^2`, made to sum to 1.

    Args:
        gramian: inner products of the tasks' gradients. Gradients of zero share the weight, there being
            nothing shorter. Where gradients are dependent the direction is one, its weights are not.

    Shape: ``(tasks, tasks) -> (tasks,)``.

    Raises ValueError for a Gramian that is not square or not finite.

    Source: Desideri 2012, Multiple-gradient descent algorithm (MGDA) for multiobjective optimization; Sener
    and Koltun 2018, arXiv:1810.04650, equation 3. Departs from it: solved exactly where they approach the
    optimum by Frank-Wolfe.

    >>> import torch
    >>> mgda_weights(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.2000, 0.8000])
    """
    cosines, lengths, resolution = cosines_of(gramian)
    zero = lengths == 0
    if zero.any():
        return weights_like(zero / zero.sum(), gramian)
    y = shortest_combination(cosines, lengths.min() / lengths, resolution=resolution)
    weights = y * lengths.min() / lengths
    return weights_like(weights / weights.sum(), gramian)


def shortest_combination(cosines: Array, inverse: Array, *, resolution: float) -> Array:
    """Multipliers of the unit gradients in the shortest convex combination of gradients.

    Args:
        inverse: lengths of the gradients, the shortest being 1, inverted.

    >>> shortest_combination(np.eye(2), np.array([0.5, 1.0]), resolution=1e-14)
    array([0.4, 0.8])
    """
    quadratic = cosines + np.outer(inverse, inverse)  # `s` is the shortest length
    y = nonnegative_minimum(quadratic, -inverse[None], resolution=resolution)[0]
    return y / (inverse @ y)

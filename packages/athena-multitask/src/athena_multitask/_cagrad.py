"""CAGrad: the direction near the mean gradient whose worst task gains most."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from athena_multitask._balancer import Balancer
from athena_multitask._cosines import cosines_of, weights_like
from athena_multitask._mgda import shortest_combination
from athena_multitask._nonnegative_quadratic import nonnegative_minimum

Array = NDArray[np.float64]

MAX_ITERATIONS = 100  # of Newton, which takes about 5
PRECISION = 1e-10  # of the radius


class CAGrad(Balancer):
    r"""Conflict-averse gradient descent: see `cagrad_weights`.

    Args:
        c: the radius of the ball about the mean gradient, in its lengths; 0 is the mean, near 1 is near MGDA.

    Raises ValueError for ``c`` outside [0, 1).

    >>> import torch
    >>> CAGrad(c=0.5).direction(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    tensor([1.5000, 1.5000])
    """

    laws: ClassVar[frozenset[str]] = frozenset({"permutation", "scaling"})

    def __init__(self, *, c: float = 0.4) -> None:
        if not 0 <= c < 1:
            raise ValueError(f"`c` must lie in [0, 1); got {c}. Take 0.4, or `MGDA()` for all of it.")
        self.c = c

    def weights(self, gramian: Tensor) -> Tensor:
        """Weights of the tasks, ``(tasks,)``."""
        return cagrad_weights(gramian, self.c)


def cagrad_weights(gramian: Tensor, c: float) -> Tensor:
    r"""Weights of the direction, near the mean gradient, with the largest smallest gain.

    .. math:: d = \arg\max_d \min_i g_i^\top d \ \text{subject to}\ \|d - g_0\| \le c \|g_0\|, \qquad
        g_0 = \frac1n \sum_i g_i

    which is :math:`g_0 + (c \|g_0\| / \|g_w\|)\, g_w` for :math:`g_w = J^\top w`, where :math:`w` minimises
    :math:`g_w^\top g_0 + c \|g_0\| \|g_w\|` over the simplex.

    Args:
        gramian: inner products of the tasks' gradients. Where :math:`g_w` is zero (gradients cancel, or
            one is zero) that formula divides by zero, and every direction in the ball that harms no task
            is an optimum: the nearest to the mean gradient is taken.
        c: the radius, in [0, 1).

    Shape: ``(tasks, tasks) -> (tasks,)``.

    Raises ValueError for a Gramian that is not square or not finite.

    Source: Liu et al. 2021, Conflict-averse gradient descent for multi-task learning, arXiv:2110.14048,
    algorithm 1. Departs from it: solved exactly; the direction is not divided by
    :math:`1 + c^2` or :math:`1 + c`, as an option of the authors' code does.

    >>> import torch
    >>> cagrad_weights(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 0.5)
    tensor([0.7500, 0.7500])
    """
    cosines, lengths, resolution = cosines_of(gramian)
    n = len(lengths)
    weights = np.full(n, 1 / n)
    squared = lengths @ cosines @ lengths
    if c > 0 and squared > resolution * lengths.sum() ** 2:
        some = lengths > 0
        within, inverse = cosines[np.ix_(some, some)], lengths[some].min() / lengths[some]
        gains = within @ lengths[some] / np.sqrt(squared)
        shortest = shortest_combination(within, inverse, resolution=resolution)
        bound = 0.0  # of the least gain: that of a zero gradient, or of those that cancel
        if some.all() and (norm := shortest @ within @ shortest) > resolution * shortest.sum() ** 2:
            bound = float(gains @ shortest + c * np.sqrt(norm))
        pulls = conflict_averse(within, gains, inverse, c, bound=bound, resolution=resolution)
        weights[some] += np.sqrt(squared) / n * pulls / lengths[some]
    return weights_like(weights, gramian)


def conflict_averse(
    cosines: Array, gains: Array, inverse: Array, c: float, *, bound: float, resolution: float
) -> Array:
    r"""Multipliers ``y`` of the unit gradients in the direction less the mean gradient, whose length is 1.

    For a gain :math:`\mu` of the worst task, :math:`y(\mu)` takes the mean gradient to the nearest direction
    with all gains at least that. Its distance :math:`r` is convex in :math:`\mu`, with
    :math:`r\,r' = \sum_i s_i y_i` for the inverse lengths :math:`s`: Newton's method finds, from above, where
    it is ``c``, or ends at the bound.

    Args:
        gains: of the unit gradients, along the mean gradient.
        inverse: lengths of the gradients, the shortest being 1, inverted.
        bound: no direction in the ball has a larger least gain, in lengths of the shortest gradient.

    >>> conflict_averse(np.eye(2), np.full(2, 0.5**0.5), np.ones(2), 0.5, bound=9.0, resolution=1e-14)
    array([0.35355339, 0.35355339])
    """
    gain = min(bound, ((gains + c) / inverse).min())  # of which each task alone is capable
    y, passive = np.zeros(len(gains)), None
    for _ in range(MAX_ITERATIONS):
        linear = (gains - gain * inverse)[None]
        y = nonnegative_minimum(cosines, linear, passive=passive, resolution=resolution)[0]
        distance = np.sqrt(max(y @ cosines @ y, 0.0))
        if distance <= c * (1 + PRECISION):
            break
        passive = y[None] > 0  # soon the same
        gain -= (distance - c) * distance / (inverse @ y)
    return y

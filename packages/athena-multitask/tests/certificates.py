"""How far weights are from what their method says is optimal, relative to the lengths of the gradients.

Each function takes the gradients, ``(tasks, parameters)``, and the weights, in float64. What it returns is 0
for an optimum, and does not change with the scale of all gradients.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from athena_multitask._cosines import cosines_of
from athena_multitask._nonnegative_quadratic import nonnegative_minimum

Array = NDArray[np.float64]


def nonnegative_violation(quadratic: Array, linear: Array, y: Array) -> float:
    """Of the conditions of a quadratic program over nonnegative numbers, in any row of ``y``."""
    slack = y @ quadratic + linear
    size = np.abs(linear).max(initial=1e-300)
    return float(max(-y.min(), -slack.min(), np.abs((y * slack).sum(axis=1)).max()) / size)


def mgda_violation(matrix: Array, weights: Array) -> float:
    """Weights on the simplex, and no gradient whose inner product with the direction is below its square."""
    lengths = np.linalg.norm(matrix, axis=1)
    direction = weights @ matrix
    short = direction @ direction - matrix @ direction  # at most 0
    return float(
        max(-weights.min(), abs(weights.sum() - 1), (short / (lengths * lengths.min() + 1e-300)).max())
    )


def cagrad_violation(matrix: Array, weights: Array, c: float, *, stationary: bool) -> float:
    """Pulls by the least gains only; on the ball's surface, or in it if no gain above 0 is possible."""
    n = len(matrix)
    lengths = np.linalg.norm(matrix, axis=1)
    mean, direction = matrix.mean(axis=0), weights @ matrix
    size = np.linalg.norm(mean)
    pulls = (weights - 1 / n) * lengths / size
    gains = matrix @ direction / size
    some = lengths > 0
    pulled = some & (pulls > 1e-9)
    least = (
        gains[pulled][lengths[pulled].argmin()] if pulled.any() else 0.0
    )  # of the longer, rounding is worse
    excess = np.divide(gains - least, lengths, out=np.zeros(n), where=some)
    slack = max(np.abs(pulls * excess).max() / max(1.0, np.abs(pulls).max()), -excess.min())
    inside = abs(np.linalg.norm(direction - mean) / size - c)
    if stationary:  # or inside the ball, where nothing above 0 is possible
        inside = min(inside, abs(least))
    return float(max(-pulls.min(), inside, slack))


def nash_violation(matrix: Array, weights: Array) -> float:
    """Of the equations ``w_i (G w)_i = 1``."""
    return float(np.abs(weights * (matrix @ (weights @ matrix)) - 1).max())


def projections(matrix: Array) -> Array:
    """Weights of each gradient's projection on the dual cone, a row a task; UPGrad's are their mean."""
    cosines, lengths, resolution = cosines_of(torch.from_numpy(matrix @ matrix.T))
    raised = nonnegative_minimum(cosines, cosines, resolution=resolution)
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return np.eye(len(lengths)) + lengths[:, None] * raised * inverse

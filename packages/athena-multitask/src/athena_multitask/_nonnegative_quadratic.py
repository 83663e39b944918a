"""Quadratic programs over nonnegative numbers: what the exact balancers are solved by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

MAX_ROUNDS = 8  # of exchanges; what still is not solved is nearly singular, and solved by a slower way
TOLERANCE = 1e-9  # of signs, where entries are about 1


def nonnegative_minimum(
    quadratic: Array, linear: Array, *, passive: Flags | None = None, resolution: float = 1e-13
) -> Array:
    r"""Minimise many quadratics of one matrix over nonnegative numbers, exactly.

    .. math:: y_k = \arg\min_{y \ge 0} \tfrac12 y^\top M y + q_k^\top y, \qquad\text{that is}\qquad
        y \ge 0, \quad M y + q_k \ge 0, \quad y^\top (M y + q_k) = 0

    All problems are pivoted at once, each exchanging all coordinates whose sign is wrong. Those that do not
    end in a few rounds are solved one by one.

    Args:
        quadratic: a symmetric positive semi-definite matrix with a diagonal of about 1. Where it is singular
            `M y` is unique, `y` is one of many.
        linear: a vector for each problem.
        passive: a guess of which coordinates are positive, in each problem.
        resolution: eigenvalues below this share of the largest are rounding, where that makes a difference.

    Shape: ``(n, n), (k, n), (k, n) -> (k, n)``.

    Source: Portugal, Judice and Vicente 1994, A comparison of block pivoting and interior-point algorithms
    for linear least squares problems with nonnegative variables; Lawson and Hanson 1974, Solving least
    squares problems, chapter 23, for the rest. Departs from it: many problems at once, and without a guess
    the first is that of two steps of projected gradient.

    >>> nonnegative_minimum(np.array([[1.0, -0.5], [-0.5, 1.0]]), np.array([[-1.0, 2.0], [1.0, 1.0]]))
    array([[1., 0.],
           [0., 0.]])
    """
    if passive is None:
        guess = np.maximum(-linear, 0.0)
        guess = np.maximum(guess - (guess @ quadratic + linear), 0.0)
        passive = guess > guess @ quadratic + linear
    limit = resolution**-0.5  # larger multipliers have come from rounding
    y, wrong = _stationary(quadratic, linear, passive)
    if not wrong.any() and y.max() < limit:
        return np.maximum(y, 0.0)
    rows = np.flatnonzero(wrong.any(axis=1))
    for _ in range(MAX_ROUNDS):
        passive = passive ^ wrong
        y[rows], wrong[rows] = _stationary(quadratic, linear[rows], passive[rows])
        rows = rows[wrong[rows].any(axis=1)]
        if not len(rows):
            break
    rows = np.flatnonzero(wrong.any(axis=1) | (y.max(axis=1) > limit))
    if not len(rows):
        return np.maximum(y, 0.0)
    repaired = positive_part(quadratic, resolution)
    for row in rows:
        for guess in (passive[row], np.zeros_like(passive[row])):  # a dependent guess can be a dead end
            y[row] = one_by_one(repaired, linear[row], guess, resolution=resolution)
            if (repaired @ y[row] + linear[row]).min() >= -max(TOLERANCE, resolution):
                break
    return np.maximum(y, 0.0)


def _stationary(quadratic: Array, linear: Array, passive: Flags) -> tuple[Array, Flags]:
    """Where the gradient in passive coordinates is zero, the others being zero; and which signs are wrong."""
    n = len(quadratic)
    systems = quadratic * (passive[:, :, None] & passive[:, None, :])
    systems.reshape(len(passive), n * n)[:, :: n + 1] = quadratic.diagonal()
    right = (-linear * passive)[:, :, None]
    try:
        y = np.linalg.solve(systems, right)[:, :, 0]
        wrong = np.where(passive, y, y @ quadratic + linear) < -TOLERANCE
    except np.linalg.LinAlgError:  # exactly singular, and perhaps without a solution
        y = (np.linalg.pinv(systems, rcond=1e-12, hermitian=True) @ right)[:, :, 0]
        slack = y @ quadratic + linear
        wrong = (np.where(passive, y, slack) < -TOLERANCE) | (passive & (slack > TOLERANCE))
    return y.astype(np.float64, copy=False), wrong


def positive_part(matrix: Array, resolution: float) -> Array:
    """The matrix with what is rounding, such as negative eigenvalues, as good as zero but solvable.

    >>> positive_part(np.array([[1.0, 0.0], [0.0, -1e-7]]), 1e-6).round(9)
    array([[1., 0.],
           [0., 0.]])
    """
    values, vectors = np.linalg.eigh(matrix)
    kept = np.where(values > resolution * values[-1], values, 1e-13 * values[-1])
    return (vectors * kept) @ vectors.T


def one_by_one(quadratic: Array, linear: Array, passive: Flags, *, resolution: float) -> Array:
    """The minimum of one problem, letting in a coordinate at a time and never leaving what is feasible.

    ``passive`` is a guess of where to begin.

    >>> one_by_one(np.eye(2), np.array([-1.0, 2.0]), np.array([False, True]), resolution=1e-13)
    array([1., 0.])
    """
    limit, tolerance = resolution**-0.5, max(TOLERANCE, resolution)
    y, blocked = _on_face(quadratic, linear, passive), np.zeros(len(linear), bool)
    while y.min() < 0 or y.max() > limit:
        y = _on_face(quadratic, linear, (y > 0) & (y < limit))
    passive = y > 0
    for _ in range(10 * len(linear)):
        slack = quadratic @ y + linear
        slack[passive | blocked] = 0.0
        entering = int(slack.argmin())
        if slack[entering] >= -tolerance:
            break
        passive[entering] = True
        target = _on_face(quadratic, linear, passive)
        endless = target.max() > limit and target[passive].min() > 0
        if target[entering] <= 0 or endless:  # it depends on the others, up to rounding
            passive[entering], blocked[entering] = False, True
            continue
        blocked[:] = False
        while (negative := passive & (target <= 0)).any():
            share = (y[negative] / (y[negative] - target[negative])).min()
            y += share * (target - y)
            passive &= ~(negative & (y <= 1e-14 * max(1.0, y.max())))
            y[~passive] = 0.0
            target = _on_face(quadratic, linear, passive)
        y = target
    return y


def _on_face(quadratic: Array, linear: Array, passive: Flags) -> Array:
    face = np.flatnonzero(passive)
    y = np.zeros(len(linear))
    y[face] = np.linalg.solve(quadratic[face[:, None], face], -linear[face])
    return y

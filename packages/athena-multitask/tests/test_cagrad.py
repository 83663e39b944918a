"""CAGrad: worked by hand, by its optimality conditions, and against a slow search of the dual."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from certificates import cagrad_violation, projections
from drawn_gradients import KINDS, TASKS, drawn_gradients, gramian

from athena_multitask import CAGrad
from athena_multitask._cagrad import cagrad_weights
from athena_multitask._mgda import mgda_weights


def cancel(matrix: np.ndarray) -> bool:
    """Whether a convex combination of gradients is zero, up to rounding."""
    lengths = np.linalg.norm(matrix, axis=1)
    weights = mgda_weights(gramian(matrix)).numpy()
    return bool(np.linalg.norm(weights @ matrix) <= 1e-7 * weights @ lengths)


@pytest.mark.parametrize("c", [0.1, 0.4, 0.95])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tasks", TASKS)
def test_conditions_of_an_optimum(kind: str, tasks: int, c: float) -> None:
    for seed in range(3):
        matrix = drawn_gradients(kind, tasks, seed=seed)
        if np.linalg.norm(matrix.mean(axis=0)) > 0:
            weights = cagrad_weights(gramian(matrix), c).numpy()
            assert cagrad_violation(matrix, weights, c, stationary=cancel(matrix)) < 1e-6


@pytest.mark.parametrize(
    ("matrix", "c", "direction"),
    [
        # Orthogonal: g_0 = (1, 1), and the worst gains most along it.
        ([[2.0, 0.0], [0.0, 2.0]], 0.5, [1.5, 1.5]),
        # One task: g_0 + c g_0.
        ([[3.0, 4.0]], 0.5, [4.5, 6.0]),
        # g_0 = (2, 1), |g_0| = sqrt(5); the second gains least in the ball, so w = (0, 1).
        ([[4.0, 0.0], [0.0, 2.0]], 0.2, [2.0, 1 + 0.2 * 5**0.5]),
        # c = 0: the mean.
        ([[4.0, 0.0], [0.0, 2.0]], 0.0, [2.0, 1.0]),
        # Opposed and g_0 = (-1, 0): the ball holds no harmless direction, w = (1, 0), d = g_0 + c (1, 0).
        ([[1.0, 0.0], [-3.0, 0.0]], 0.5, [-0.5, 0.0]),
        # A zero gradient: the mean harms nobody, and nobody's least gain can be above 0.
        ([[0.0, 0.0], [0.0, 1.0]], 0.5, [0.0, 0.5]),
        ([[0.0, 0.0], [0.0, 0.0]], 0.5, [0.0, 0.0]),
        # The mean is zero: there is no ball.
        ([[1.0, 0.0], [-1.0, 0.0]], 0.5, [0.0, 0.0]),
    ],
)
def test_worked_by_hand(matrix: list[list[float]], c: float, direction: list[float]) -> None:
    found = CAGrad(c=c).direction(torch.tensor(matrix))
    torch.testing.assert_close(found, torch.tensor(direction))


@pytest.mark.parametrize("c", [0.2, 0.7])
def test_the_dual_of_two_tasks_on_a_fine_grid(c: float) -> None:
    for seed in range(10):
        matrix = np.random.default_rng(seed).normal(size=(2, 3))
        mean = matrix.mean(axis=0)
        share = np.linspace(0, 1, 100_001)[:, None]
        combined = share * matrix[0] + (1 - share) * matrix[1]
        norms = np.linalg.norm(combined, axis=1)
        best = (combined @ mean + c * np.linalg.norm(mean) * norms).argmin()
        expected = mean + c * np.linalg.norm(mean) * combined[best] / norms[best]
        np.testing.assert_allclose(cagrad_weights(gramian(matrix), c).numpy() @ matrix, expected, atol=1e-3)


def test_where_gradients_cancel_it_is_the_nearest_direction_that_harms_nobody() -> None:
    matrix = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.1, 1.0, 0.0]])
    direction = cagrad_weights(gramian(matrix), 0.9).numpy() @ matrix
    np.testing.assert_allclose(direction, [0.0, 1 / 3, 0.0], atol=1e-12)  # g_0 less what conflicts
    # which is the mean's own projection, of which UPGrad's are those of each
    harmless = projections(matrix) @ matrix
    np.testing.assert_allclose(harmless.mean(axis=0), direction, atol=1e-12)


@pytest.mark.parametrize("c", [-0.1, 1.0, float("nan")])
def test_bad_radius(c: float) -> None:
    with pytest.raises(ValueError, match=r"`c` must lie in \[0, 1\); got"):
        CAGrad(c=c)

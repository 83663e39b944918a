"""MGDA: worked by hand, by its optimality conditions, and beside CAGrad."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from certificates import mgda_violation
from drawn_gradients import KINDS, TASKS, drawn_gradients, gramian

from athena_multitask import MGDA
from athena_multitask._cagrad import cagrad_weights
from athena_multitask._mgda import mgda_weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tasks", TASKS)
def test_conditions_of_an_optimum(kind: str, tasks: int) -> None:
    for seed in range(5):
        matrix = drawn_gradients(kind, tasks, seed=seed)
        assert mgda_violation(matrix, mgda_weights(gramian(matrix)).numpy()) < 1e-6


@pytest.mark.parametrize(
    ("matrix", "weights"),
    [
        # Two tasks (Sener and Koltun, figure 1): w_1 = g_2 (g_2 - g_1) / |g_1 - g_2|^2, kept in [0, 1].
        ([[1.0, 0.0], [0.0, 2.0]], [0.8, 0.2]),
        ([[1.0, 0.0], [-1.0, 1.0]], [0.6, 0.4]),
        ([[1.0, 0.0], [3.0, 1.0]], [1.0, 0.0]),
        ([[1.0], [-3.0]], [0.75, 0.25]),
        # The corners of a triangle, of which the middle one lies behind the edge of the others.
        ([[1.0, 1.0], [2.0, 0.0], [1.0, -1.0]], [0.5, 0.0, 0.5]),
        ([[5.0]], [1.0]),
        ([[0.0, 0.0], [0.0, 1.0]], [1.0, 0.0]),
        ([[0.0], [0.0]], [0.5, 0.5]),
    ],
)
def test_worked_by_hand(matrix: list[list[float]], weights: list[float]) -> None:
    gradients = torch.tensor(matrix)
    torch.testing.assert_close(mgda_weights(gradients @ gradients.T), torch.tensor(weights))
    torch.testing.assert_close(MGDA().direction(gradients), torch.tensor(weights) @ gradients)


def test_no_drawn_combination_is_shorter() -> None:
    matrix = drawn_gradients("conflicting", 6, seed=0)
    shortest = np.linalg.norm(mgda_weights(gramian(matrix)).numpy() @ matrix)
    drawn = np.random.default_rng(0).dirichlet(np.full(6, 0.7), size=20_000)
    assert np.linalg.norm(drawn @ matrix, axis=1).min() > shortest * (1 - 1e-12)


def test_the_ball_of_cagrad_as_it_grows_leads_to_it() -> None:
    # Once the ball holds all of it, d = g_0 + c |g_0| / |g_w| g_w for a large c is along g_w, the shortest.
    matrix = drawn_gradients("plain", 5, seed=0)
    shortest = mgda_weights(gramian(matrix)).numpy() @ matrix
    far = cagrad_weights(gramian(matrix), 1e4).numpy() @ matrix
    assert shortest @ far / np.linalg.norm(shortest) / np.linalg.norm(far) > 1 - 1e-6

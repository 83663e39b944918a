"""UPGrad: worked by hand, and by what projections are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from certificates import projections
from drawn_gradients import KINDS, TASKS, drawn_gradients, gramian

from athena_multitask import UPGrad
from athena_multitask._upgrad import upgrad_weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tasks", TASKS)
def test_each_is_the_projection_on_the_dual_cone(kind: str, tasks: int) -> None:
    # d is the nearest to g in a cone if it is in it, and d - g is made of what bounds it, at right angles.
    for seed in range(3):
        matrix = drawn_gradients(kind, tasks, seed=seed)
        lengths = np.linalg.norm(matrix, axis=1)
        raised = projections(matrix)
        multipliers = (raised - np.eye(tasks)) * lengths / np.where(lengths > 0, lengths, 1)[:, None]
        projected = raised @ matrix / np.where(lengths > 0, lengths, 1)[:, None]
        gains = projected @ matrix.T / np.where(lengths > 0, lengths, 1)
        assert multipliers.min() > -1e-12
        assert gains.min() > -1e-6
        assert np.abs((multipliers * gains).sum(axis=1)).max() < 1e-6
        weights = upgrad_weights(gramian(matrix)).numpy()
        np.testing.assert_allclose(weights, raised.mean(axis=0), rtol=1e-9)


@pytest.mark.parametrize(
    ("matrix", "direction"),
    [
        ([[3.0, 4.0]], [3.0, 4.0]),
        ([[2.0, 0.0], [0.0, 2.0]], [1.0, 1.0]),  # no conflict: the mean
        # pi(g_1) = (1, 0) + (-1, 1) / 2 and pi(g_2) = (0, 1)
        ([[1.0, 0.0], [-1.0, 1.0]], [0.25, 0.75]),
        ([[1.0, 0.0], [-2.0, 0.0]], [0.0, 0.0]),  # opposed: nothing is left
        ([[0.0, 0.0], [0.0, 1.0]], [0.0, 0.5]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
    ],
)
def test_worked_by_hand(matrix: list[list[float]], direction: list[float]) -> None:
    torch.testing.assert_close(UPGrad().direction(torch.tensor(matrix)), torch.tensor(direction))


def test_two_tasks_as_pcgrad_which_projects_on_one_plane() -> None:
    for seed in range(10):
        matrix = np.random.default_rng(seed).normal(size=(2, 3))
        inner, squares = matrix[0] @ matrix[1], (matrix**2).sum(axis=1)
        surgery = matrix - min(inner, 0) * matrix[::-1] / squares[::-1, None]
        np.testing.assert_allclose(
            upgrad_weights(gramian(matrix)).numpy() @ matrix, surgery.mean(axis=0), atol=1e-12
        )


def test_each_gradient_has_a_say_as_long_as_it_is() -> None:
    # Its projections are linear in the length of one gradient, the others being as they were.
    matrix = drawn_gradients("conflicting", 4, seed=0)
    longer = matrix * np.array([[3.0], [1.0], [1.0], [1.0]])
    change = (
        upgrad_weights(gramian(longer)).numpy() @ longer - upgrad_weights(gramian(matrix)).numpy() @ matrix
    )
    first = projections(matrix)[0] @ matrix
    np.testing.assert_allclose(change, 2 * first / 4, atol=1e-12)

"""Nash-MTL: worked by hand, by its equations, and with kept weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from certificates import nash_violation
from drawn_gradients import KINDS, TASKS, drawn_gradients, gramian

from athena_multitask import NashMTL
from athena_multitask._mgda import mgda_weights
from athena_multitask._nash_mtl import nash_weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tasks", TASKS)
def test_its_equations(kind: str, tasks: int) -> None:
    for seed in range(5):
        matrix = drawn_gradients(kind, tasks, seed=seed)
        lengths = np.linalg.norm(matrix, axis=1)
        some = lengths > 0
        weights = nash_weights(gramian(matrix)).numpy()
        assert (weights[~some] == 0).all()
        if weights.any():
            assert (weights[some] > 0).all()
            assert nash_violation(matrix[some], weights[some]) < 1e-6
        elif some.any():  # no agreement: some combination of gradients is zero
            convex = mgda_weights(gramian(matrix[some])).numpy()
            assert np.linalg.norm(convex @ matrix[some]) < 1e-6 * convex @ lengths[some]


@pytest.mark.parametrize(
    ("gram", "weights"),
    [
        # Orthogonal: w_i = 1 / |g_i|, and the direction is the sum of unit gradients.
        ([[4.0, 0.0], [0.0, 0.25]], [0.5, 2.0]),
        # Two tasks: a |g_1| = b |g_2| = 1 / sqrt(1 + cosine); here the cosine is 1/2, then -1/2.
        ([[4.0, 1.0], [1.0, 1.0]], [0.5 / 1.5**0.5, 1 / 1.5**0.5]),
        ([[4.0, -1.0], [-1.0, 1.0]], [0.5 / 0.5**0.5, 1 / 0.5**0.5]),
        ([[9.0]], [1 / 3]),
        ([[1.0, 1.0], [1.0, 1.0]], [0.5**0.5, 0.5**0.5]),
        ([[1.0, -1.0], [-1.0, 1.0]], [0.0, 0.0]),
        ([[0.0, 0.0], [0.0, 1.0]], [0.0, 1.0]),  # pitfall 5
        ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
    ],
)
def test_worked_by_hand(gram: list[list[float]], weights: list[float]) -> None:
    torch.testing.assert_close(nash_weights(torch.tensor(gram)), torch.tensor(weights))


def test_lengths_of_gradients_do_not_matter() -> None:
    matrix = torch.from_numpy(drawn_gradients("plain", 5, seed=0))
    scaled = torch.tensor([1e-8, 1e-2, 1.0, 7.0, 1e8], dtype=torch.float64)[:, None] * matrix
    torch.testing.assert_close(NashMTL().direction(scaled), NashMTL().direction(matrix))


def test_no_drawn_direction_has_a_larger_product_of_gains() -> None:
    matrix = drawn_gradients("rank-deficient, agreeing", 6, seed=0)
    agreed = nash_weights(gramian(matrix)).numpy() @ matrix
    drawn = agreed / np.linalg.norm(agreed) + np.random.default_rng(0).normal(size=(20_000, 3)) * 0.3
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    gains = np.maximum(matrix @ drawn.T, 1e-300)
    best = np.log(matrix @ agreed / np.linalg.norm(agreed)).sum()
    assert np.log(gains).sum(axis=0).max() <= best + 1e-12


@pytest.mark.parametrize(
    ("max_norm", "norm"), [(None, 3**0.5), (1.0, 1.0), (0.2, 0.2), (1.7, 1.7), (5.0, 3**0.5)]
)
def test_the_direction_is_as_long_as_the_root_of_the_tasks_or_max_norm(
    max_norm: float | None, norm: float
) -> None:
    matrix = torch.from_numpy(drawn_gradients("plain", 3, seed=0))
    assert NashMTL(max_norm=max_norm).direction(matrix).norm().item() == pytest.approx(norm)


def test_weights_are_kept_between_updates_and_shortened_anew() -> None:
    first, second = (torch.from_numpy(drawn_gradients("plain", 3, seed=seed)) for seed in (0, 1))
    nash = NashMTL(max_norm=None, update_every=2)
    expected = [nash_weights(matrix @ matrix.T) for matrix in (first, second)]
    for matrix, weights in [(first, 0), (second, 0), (second, 1), (first, 1)]:
        assert nash.weights(matrix @ matrix.T).equal(expected[weights])
    short = NashMTL(update_every=2)
    for matrix in (first, 10 * second):
        assert short.direction(matrix).norm().item() == pytest.approx(1)


def test_it_goes_on_between_updates_where_its_state_was_taken() -> None:
    matrices = [torch.from_numpy(drawn_gradients("plain", 3, seed=seed)) for seed in range(7)]
    nash, other = NashMTL(update_every=3), NashMTL(update_every=3)
    expected = [nash.direction(matrix) for matrix in matrices[:2]]
    other.load_state_dict(nash.state_dict())
    expected = [nash.direction(matrix) for matrix in matrices[2:]]
    for matrix, direction in zip(matrices[2:], expected, strict=True):
        assert other.direction(matrix).equal(direction)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"`max_norm` must be above 0; got 0\.0\. Pass None"):
        NashMTL(max_norm=0.0)
    with pytest.raises(ValueError, match="`update_every` must be at least 1; got 0"):
        NashMTL(update_every=0)
    nash = NashMTL(update_every=2)
    nash.weights(torch.eye(3))
    with pytest.raises(ValueError, match="`gramian` must be of the 3 tasks that weights are kept of; got 2"):
        nash.weights(torch.eye(2))

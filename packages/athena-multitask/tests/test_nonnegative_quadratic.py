"""Quadratic programs over nonnegative numbers: against all faces tried, and by what an optimum is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from certificates import nonnegative_violation
from drawn_gradients import KINDS, TASKS, drawn_gradients, gramian
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from athena_multitask._cosines import cosines_of, weights_like
from athena_multitask._nonnegative_quadratic import nonnegative_minimum, one_by_one, positive_part

Array = NDArray[np.float64]


def tried_faces(quadratic: Array, linear: Array) -> Array:
    """The slow way: the best of the minima on all faces."""
    best, least = np.zeros(len(linear)), 0.0
    for flags in product([False, True], repeat=len(linear)):
        face = np.flatnonzero(flags)
        y = np.zeros(len(linear))
        y[face] = np.linalg.lstsq(quadratic[np.ix_(face, face)], -linear[face], rcond=None)[0]
        value = y @ quadratic @ y / 2 + linear @ y
        if (y >= 0).all() and value < least:
            best, least = y, value
    return best


@given(st.integers(1, 5), st.integers(0, 10**6))
def test_it_is_the_best_of_all_faces(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(n, n + 1))
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)
    quadratic, linear = factor @ factor.T, rng.normal(size=(3, n))
    expected = np.stack([tried_faces(quadratic, row) for row in linear])
    np.testing.assert_allclose(nonnegative_minimum(quadratic, linear), expected, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tasks", TASKS)
def test_conditions_of_an_optimum(kind: str, tasks: int) -> None:
    for seed in range(3):
        cosines, _, resolution = cosines_of(gramian(drawn_gradients(kind, tasks, seed=seed)))
        y = nonnegative_minimum(cosines, cosines, resolution=resolution)
        assert nonnegative_violation(cosines, cosines, y) < 1e-6
        linear = np.random.default_rng(seed).normal(size=(4, tasks)) @ cosines
        y = nonnegative_minimum(cosines, linear, resolution=resolution)
        assert nonnegative_violation(cosines, linear, y) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tasks", TASKS)
def test_the_way_for_singular_matrices_alone(kind: str, tasks: int) -> None:
    cosines, _, resolution = cosines_of(gramian(drawn_gradients(kind, tasks, seed=0)))
    repaired, none = positive_part(cosines, resolution), np.zeros(tasks, bool)
    y = np.stack([one_by_one(repaired, row, none, resolution=resolution) for row in cosines[:5]])
    assert nonnegative_violation(cosines, cosines[:5], y) < 1e-6


@pytest.mark.parametrize(
    ("matrix", "linear"),
    [
        ([[1.0, 1.0], [1.0, 1.0]], [-1.0, -1.0]),  # singular, with many solutions
        ([[1.0, 1.0], [1.0, 1.0]], [-1.0, -2.0]),  # and where both passive would have none
        ([[1.0, -1.0], [-1.0, 1.0]], [-1.0, 1.0]),
    ],
)
def test_exactly_singular(matrix: list[list[float]], linear: list[float]) -> None:
    quadratic, row = np.array(matrix), np.array([linear])
    assert nonnegative_violation(quadratic, row, nonnegative_minimum(quadratic, row)) < 1e-9


def test_float32_gramians_of_dependent_gradients_have_negative_eigenvalues_and_are_solved() -> None:
    for seed in range(5):
        matrix = torch.from_numpy(drawn_gradients("rank-deficient", 20, seed=seed)).float()
        cosines, _, resolution = cosines_of(matrix @ matrix.T)
        assert np.linalg.eigvalsh(cosines)[0] < 0
        y = nonnegative_minimum(cosines, cosines, resolution=resolution)
        assert nonnegative_violation(cosines, cosines, y) < 1e-3  # of what float32 knows of such a matrix


def test_opposed_gradients_in_float32_get_no_multipliers_from_rounding() -> None:
    for seed in range(20):
        matrix = torch.from_numpy(drawn_gradients("opposed", 5, seed=seed)).float()
        cosines, _, resolution = cosines_of(matrix @ matrix.T)
        assert nonnegative_minimum(cosines, cosines, resolution=resolution).max() < resolution**-0.5


def test_nothing_to_do() -> None:
    np.testing.assert_array_equal(nonnegative_minimum(np.eye(3), np.ones((2, 3))), np.zeros((2, 3)))


def test_cosines_of_uneven_gradients() -> None:
    matrix = torch.tensor([[1e-10, 0.0], [1e10, 1e10], [0.0, 0.0]], dtype=torch.float64)
    cosines, lengths, _ = cosines_of(matrix @ matrix.T)
    np.testing.assert_allclose(cosines, [[1, 0.5**0.5, 0], [0.5**0.5, 1, 0], [0, 0, 1]], rtol=1e-12)
    np.testing.assert_allclose(lengths, [1e-10, 2**0.5 * 1e10, 0], rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_type_is_taken_and_given_back(dtype: torch.dtype) -> None:
    given = torch.eye(2, dtype=dtype, requires_grad=True)
    assert cosines_of(given).cosines.dtype == np.float64
    assert cosines_of(given).resolution == 16 * torch.finfo(dtype).eps
    assert weights_like(np.ones(2), given).dtype == dtype


def test_bad_gramians() -> None:
    with pytest.raises(ValueError, match=r"`gramian` must be \(tasks, tasks\); got \(2, 3\)"):
        cosines_of(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"`gramian` must be \(tasks, tasks\); got \(0, 0\)"):
        cosines_of(torch.ones(0, 0))
    with pytest.raises(ValueError, match=r"`gramian` must be finite; got tasks \[1\] that are not"):
        cosines_of(torch.tensor([[1.0, float("nan")], [float("nan"), float("nan")]]))

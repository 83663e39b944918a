"""Goal spaces: distances against a plain loop, tolerance, and goals that lie outside."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from athena_hrl import GoalSpace, euclidean, hamming

BOX = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 5], np.float32))
numbers = st.floats(-3, 3, width=32)


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=5), st.floats(0, 4))
def test_distances_are_those_of_a_loop(rows: list[tuple[float, ...]], tolerance: float) -> None:
    goals = GoalSpace(BOX, tolerance=tolerance)
    table = np.array(rows, np.float64).reshape(-1, 4)
    achieved, desired = table[:, :2], table[:, 2:]
    plain = [math.dist(row[:2], row[2:]) for row in rows]
    np.testing.assert_allclose(goals.distance(achieved, desired), np.reshape(plain, len(rows)), atol=1e-12)
    np.testing.assert_array_equal(
        goals.achieved(achieved, desired), goals.distance(achieved, desired) <= tolerance
    )
    reached = goals.achieved(achieved, desired)
    np.testing.assert_array_equal(goals.compute_reward(achieved, desired, {}), reached - np.float32(1))
    np.testing.assert_array_equal(goals.compute_terminated(achieved, desired, {}), reached)


@pytest.mark.parametrize(
    ("space", "achieved", "desired", "expected"),
    [
        (spaces.MultiBinary(3), [1, 0, 1], [0, 0, 0], 2.0),
        (spaces.MultiDiscrete([4, 9]), [3, 8], [3, 0], 1.0),
        (spaces.Discrete(5), 3, 4, 1.0),
        (spaces.Discrete(5), [3, 4], 4, [1.0, 0.0]),
        (BOX, [0.0, 3.0], [0.0, 1.0], 2.0),
    ],
)
def test_each_space_has_its_distance(space: Any, achieved: Any, desired: Any, expected: Any) -> None:
    np.testing.assert_array_equal(GoalSpace(space).distance(achieved, desired), expected)


def test_a_distance_may_be_named_or_be_a_function() -> None:
    bits = spaces.MultiBinary(4)
    pair = np.array([1, 1, 1, 1]), np.zeros(4)
    assert GoalSpace(bits, distance="euclidean").distance(*pair) == euclidean(*pair) == 2.0
    assert GoalSpace(bits, distance="hamming").distance(*pair) == hamming(*pair) == 4.0
    longest = GoalSpace(BOX, distance=lambda a, g: np.abs(a - g).max(axis=-1), tolerance=1.0)
    assert longest.distance(np.zeros(2), np.ones(2)) == 1.0
    assert longest.achieved(np.zeros(2), np.ones(2))


def test_a_nan_reaches_nothing() -> None:
    goals = GoalSpace(BOX, tolerance=np.inf)
    assert not goals.achieved(np.array([np.nan, 0.0]), np.zeros(2))
    assert goals.achieved(np.array([np.inf, 0.0]), np.zeros(2))


@pytest.mark.parametrize(
    ("space", "inside", "outside", "where"),
    [
        (BOX, [[0.5, 5.0]], [[0.5, 5.0], [2.0, 0.0]], r"\[2.0, 0.0\] at \(1,\)"),
        (BOX, [0.0, 0.0], [np.nan, 0.0], r"\[nan, 0.0\]\. Clip"),
        (spaces.MultiBinary(2), [[1, 0]], [[1, 0], [1, 0], [0, 2]], r"\[0, 2\] at \(2,\)"),
        (spaces.MultiBinary(2), [1, 0], [0.5, 0], r"\[0.5, 0.0\]\."),
        (spaces.MultiDiscrete([3, 4]), [2, 3], [3, 3], r"\[3, 3\]\."),
        (spaces.Discrete(3, start=1), [1, 3], [1, 4], r"4 at \(1,\)"),
    ],
)
def test_goals_outside_the_space_raise(space: Any, inside: Any, outside: Any, where: str) -> None:
    goals = GoalSpace(space)
    np.testing.assert_array_equal(goals.check(inside), inside)
    with pytest.raises(ValueError, match=f"`desired` must lie in .*; got {where}"):
        goals.check(outside, "desired")


def test_no_goals_are_all_inside() -> None:
    assert GoalSpace(BOX).check(np.zeros((0, 2))).shape == (0, 2)
    assert GoalSpace(BOX).distance(np.zeros((0, 2)), np.zeros((0, 2))).shape == (0,)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(TypeError, match="`space` must be Discrete, or a Box"):
        GoalSpace(spaces.Box(0, 1, (2, 2)))
    with pytest.raises(TypeError, match="Flatten it"):
        GoalSpace(spaces.Text(3))
    with pytest.raises(ValueError, match="`tolerance` must be at least 0; got -1"):
        GoalSpace(BOX, tolerance=-1)
    with pytest.raises(ValueError, match="`tolerance` must be at least 0; got nan"):
        GoalSpace(BOX, tolerance=math.nan)
    with pytest.raises(
        ValueError, match='`distance` must be "euclidean", "hamming" or a function; got \'cosine\''
    ):
        GoalSpace(BOX, distance="cosine")
    with pytest.raises(ValueError, match=r"`desired` must end in the shape \(2,\) of a goal; got \(3,\)"):
        GoalSpace(BOX).distance(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match=r"`goal` must end in the shape \(2,\) of a goal; got \(2, 3\)"):
        GoalSpace(BOX).check(np.zeros((2, 3)))

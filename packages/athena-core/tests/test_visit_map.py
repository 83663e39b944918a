"""Counts of visits over the cells of a box."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from athena_core.environments import VisitMap


@given(arrays.arrays(np.int64, (30, 2), elements=st.integers(-48, 48)))
def test_it_counts_as_a_histogram_does(sixteenths: np.ndarray) -> None:
    points = sixteenths / 16  # powers of two all over: no rounding at the edges
    visits = VisitMap([-1, 0], [1, 2], [4, 8])
    visits.add(points)
    expected, *_ = np.histogram2d(*points.T, bins=(4, 8), range=[(-1, 1), (0, 2)])
    np.testing.assert_array_equal(visits.counts, expected)


def test_edges_belong_to_the_box() -> None:
    visits = VisitMap([0], [1], [2])
    visits.add([[0], [0.5], [1]])
    assert visits.counts.tolist() == [1, 2]


def test_what_is_nowhere_is_not_counted() -> None:
    visits = VisitMap([0, 0], [1, 1], [2, 2])
    visits.add([[np.nan, 0], [np.inf, 0], [0, -np.inf], [2, 0]])
    visits.add(np.zeros((0, 2)))
    assert visits.counts.sum() == 0
    assert visits.coverage == 0


def test_any_leading_axes_and_strides_and_one_or_three_axes() -> None:
    points = np.random.default_rng(0).random((3, 6, 4))[::2, ::3, 1:].transpose(1, 0, 2)
    visits = VisitMap([0] * 3, [1] * 3, [2] * 3)
    visits.add(points)
    visits.add(points[0, 0])
    assert visits.counts.sum() == 5
    line = VisitMap(0, 1, [5])
    line.add([0.3])
    assert line.counts.tolist() == [0, 1, 0, 0, 0]


def test_coverage_is_a_share_of_what_can_be_reached() -> None:
    visits = VisitMap([0, 0], [2, 2], [2, 2], reachable=np.array([[True, True], [False, False]]))
    visits.add([[0, 0], [0, 0], [1.5, 1.5]])
    assert visits.coverage == 0.5
    assert VisitMap([0], [1], [1], reachable=np.array([False])).coverage == 0


def test_it_goes_on_from_a_state() -> None:
    visits, resumed = VisitMap([0], [1], [2]), VisitMap([0], [1], [2])
    visits.add([[0.2]])
    state = visits.state_dict()
    visits.add([[0.7]])
    resumed.load_state_dict(state)
    resumed.add([[0.7]])
    np.testing.assert_array_equal(resumed.counts, visits.counts)
    with pytest.raises(ValueError, match=r"counts of the shape \(3,\); got \(2,\)"):
        VisitMap([0], [1], [3]).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], [1, 1], [2]), r"`low`, `high` and `bins` must be as long as there are axes"),
        (([0], [1], [0]), r"`bins` above 0"),
        (([], [], []), r"`bins` above 0"),
        (([1], [1], [2]), r"`low` must be below `high`, both finite; got \[1.\] and \[1.\]"),
        (([0], [np.inf], [2]), r"both finite"),
        (([np.nan], [1], [2]), r"both finite"),
    ],
)
def test_it_refuses(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisitMap(*arguments)


def test_it_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"`reachable` must be booleans of the shape \(2,\); got bool of"):
        VisitMap([0], [1], [2], reachable=np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match=r"`points` must have the shape \(..., 2\); got \(4, 3\)"):
        VisitMap([0, 0], [1, 1], [2, 2]).add(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"`points` must have the shape \(..., 1\); got \(\)"):
        VisitMap([0], [1], [2]).add(0.5)

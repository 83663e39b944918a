"""Schedules of the coefficient: their formulas, their ends, and what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena_explore import Coefficient, as_coefficient

shares = st.floats(0, 1)
positive = st.floats(1e-6, 1e6)


@given(positive, shares)
def test_a_constant_stays(value: float, remaining: float) -> None:
    assert as_coefficient(value)(remaining) == value


@given(positive, positive, st.floats(0.01, 1), shares)
def test_linear_equals_its_formula(start: float, end: float, until: float, remaining: float) -> None:
    expected = start + (end - start) * min((1 - remaining) / until, 1)
    assert math.isclose(
        Coefficient.linear(start, end, until=until)(remaining), expected, rel_tol=1e-9, abs_tol=1e-9
    )


@given(positive, positive, shares)
def test_exponential_equals_its_formula(start: float, end: float, remaining: float) -> None:
    expected = math.exp(remaining * math.log(start) + (1 - remaining) * math.log(end))
    assert math.isclose(Coefficient.exponential(start, end)(remaining), expected, rel_tol=1e-9)


def test_exponential_falls_by_equal_factors() -> None:
    schedule = Coefficient.exponential(8.0, 0.5)
    values = [schedule(remaining) for remaining in (1.0, 0.75, 0.5, 0.25, 0.0)]
    assert values == pytest.approx([8, 4, 2, 1, 0.5])


def test_a_schedule_starts_and_ends_where_it_says() -> None:
    assert Coefficient.linear(0.7, 0.1)(1.0) == 0.7
    assert Coefficient.linear(0.7, 0.1)(0.0) == 0.1
    assert Coefficient.linear(0.7)(-1e-9) == 0, "a last step past the end has no bonus below 0"
    assert Coefficient.exponential(0.7, 0.1)(1.0) == 0.7


def test_a_coefficient_stays_itself() -> None:
    coefficient = Coefficient(0.5)
    assert as_coefficient(coefficient) is coefficient
    assert as_coefficient(lambda remaining: 2 * remaining)(0.25) == 0.5


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_what_is_no_weight_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"`value` must be a finite number .* got {value}"):
        Coefficient(value)
    with pytest.raises(ValueError, match=f"`coefficient at 0.5` .* got {value}"):
        as_coefficient(lambda _: value)(0.5)
    with pytest.raises(ValueError, match="`end` must be"):
        Coefficient.linear(1.0, value)
    with pytest.raises(ValueError, match="`start` must be"):
        Coefficient.exponential(value, 1.0)


def test_ends_that_a_schedule_cannot_reach_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`end` must be positive; got 0\.0\. Take `Coefficient.linear`"):
        Coefficient.exponential(1.0, 0.0)
    for until in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="`until` must lie in"):
            Coefficient.linear(1.0, until=until)

"""The warm-up with a straight line: its values, its sibling, and the size of its steps."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena_optim import warmup_linear_factor, warmup_polynomial_factor


def test_golden_values():
    """BERT's appendix A.2: up over 10,000 steps, then a line to 0 at step 1,000,000."""
    options = {"warmup_steps": 10_000, "total_steps": 1_000_000}
    shares = [warmup_linear_factor(step, **options) for step in (5000, 10_000, 505_000, 999_999, 10**6)]
    assert shares == [5001 / 10_001, 1.0, 0.5, 1 / 990_000, 0.0]


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0, 1), st.integers(0, 130))
def test_identity_with_the_polynomial_of_power_1(warmup, fall, ratio, step):
    options = {"warmup_steps": warmup, "total_steps": warmup + fall, "min_ratio": ratio}
    assert warmup_linear_factor(step, **options) == warmup_polynomial_factor(step, power=1.0, **options)


@given(st.integers(0, 30), st.integers(1, 60), st.floats(0, 1))
def test_falls_by_the_same_at_each_step(warmup, fall, ratio):
    total = warmup + fall
    shares = [
        warmup_linear_factor(step, warmup_steps=warmup, total_steps=total, min_ratio=ratio)
        for step in range(warmup, total + 1)
    ]
    falls = [a - b for a, b in itertools.pairwise(shares)]
    assert falls == pytest.approx([(1 - ratio) / fall] * fall, abs=1e-15)

"""The warm-up with a power: its values, its largest step, and refusals of its power."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from athena_optim import warmup_polynomial, warmup_polynomial_factor


def test_golden_values():
    """DeepLab's (1 - iter/max_iter)^0.9; and halfway down a square, 1/4."""
    options = {"warmup_steps": 0, "total_steps": 20_000}
    shares = [warmup_polynomial_factor(step, power=0.9, **options) for step in (0, 10_000, 19_999, 20_000)]
    assert shares == pytest.approx([1.0, 0.5**0.9, 20_000**-0.9, 0.0])
    assert warmup_polynomial_factor(10_000, **options) == 0.25
    assert warmup_polynomial_factor(10_000, min_ratio=0.2, **options) == pytest.approx(0.4)


@given(st.integers(0, 20), st.integers(1, 40), st.floats(0.2, 4), st.floats(0, 1))
def test_no_step_is_a_jump(warmup, fall, power, ratio):
    """A power above 1 is steepest at the start, at most p/n a step; one below 1 at the end."""
    options = {"warmup_steps": warmup, "total_steps": warmup + fall, "min_ratio": ratio}
    shares = [warmup_polynomial_factor(step, power=power, **options) for step in range(warmup + fall + 1)]
    largest = max(1 / (warmup + 1), (1 - ratio) * max(power / fall, fall**-power))
    assert all(abs(a - b) <= largest + 1e-12 for a, b in itertools.pairwise(shares))


@pytest.mark.parametrize("power", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_power_is_refused(power):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=f"`power` must be finite and above 0; got {power}"):
        warmup_polynomial(optimizer, warmup_steps=1, total_steps=9, power=power)

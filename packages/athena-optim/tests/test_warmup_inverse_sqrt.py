"""The inverse square root against the formulas of its two papers, written out."""

from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena_optim import warmup_inverse_sqrt_factor


@given(st.integers(0, 5000), st.integers(0, 10**6), st.sampled_from([512, 1024]))
def test_it_is_the_transformers_rate_over_its_peak(warmup, step, width):
    """Vaswani et al. 2017, equation 3: d^-0.5 min(n^-0.5, n k^-1.5), steps counted from 1."""
    n, k = step + 1, warmup + 1
    rate = width**-0.5 * min(n**-0.5, n * k**-1.5)
    peak = width**-0.5 * k**-0.5
    assert warmup_inverse_sqrt_factor(step, warmup_steps=warmup) == pytest.approx(rate / peak, rel=1e-12)


@given(st.integers(0, 5000), st.integers(0, 10**6))
def test_past_the_warm_up_it_is_t5s_rate(warmup, more):
    """Raffel et al. 2020, section 3.1.2: 1/sqrt(max(n, k)), here times sqrt(k)."""
    n, k = warmup + more + 1, warmup + 1
    theirs = 1 / sqrt(max(n, k)) * sqrt(k)
    assert warmup_inverse_sqrt_factor(warmup + more, warmup_steps=warmup) == pytest.approx(theirs, rel=1e-12)


def test_golden_values():
    """4,000 steps of warm-up in the paper's count; four times as many halve the rate."""
    shares = [warmup_inverse_sqrt_factor(n - 1, warmup_steps=3999) for n in (1, 2000, 4000, 16_000, 400_000)]
    assert shares == [1 / 4000, 0.5, 1.0, 0.5, 0.1]

"""The warm-up alone: its values, and what the others are while they warm up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from athena_optim import (
    warmup_constant_factor,
    warmup_cosine_factor,
    warmup_inverse_sqrt_factor,
    warmup_linear_factor,
    warmup_polynomial_factor,
    wsd_factor,
)


def test_golden_values():
    shares = [warmup_constant_factor(step, warmup_steps=4) for step in (0, 1, 3, 4, 5, 10**9)]
    assert shares == [0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert warmup_constant_factor(0, warmup_steps=0) == 1.0


@given(st.data())
def test_identity_with_the_others_during_the_warm_up(data):
    total = data.draw(st.integers(1, 200))
    warmup = data.draw(st.integers(0, total - 1))
    step = data.draw(st.integers(0, warmup))
    options = {"warmup_steps": warmup, "total_steps": total}
    expected = warmup_constant_factor(step, warmup_steps=warmup)
    for factor in (
        warmup_cosine_factor,
        warmup_inverse_sqrt_factor,
        warmup_linear_factor,
        warmup_polynomial_factor,
    ):
        assert factor(step, **options) == expected
    assert wsd_factor(step, decay_steps=0, **options) == expected

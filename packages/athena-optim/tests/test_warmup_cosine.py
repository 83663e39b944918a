"""The warm-up with cosine against torch's schedulers, its defining properties, and resuming."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from athena_optim import warmup_cosine, warmup_cosine_factor


def sgd(lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


@pytest.mark.filterwarnings(
    "ignore:The epoch parameter"
)  # torch's SequentialLR calls its own deprecated form
@pytest.mark.parametrize(("warmup", "total", "ratio"), [(4, 20, 0.0), (1, 9, 0.1), (9, 10, 0.5)])
def test_identity_with_torchs_linear_then_cosine(warmup, total, ratio):
    ours = warmup_cosine(sgd(0.3), warmup_steps=warmup, total_steps=total, min_ratio=ratio)
    optimizer = sgd(0.3)
    linear = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    cosine = CosineAnnealingLR(optimizer, T_max=total - warmup, eta_min=0.3 * ratio)
    theirs = SequentialLR(optimizer, [linear, cosine], milestones=[warmup])
    assert rates(ours, total) == pytest.approx(rates(theirs, total), rel=1e-12)


@given(st.data())
def test_rises_then_falls_between_its_bounds(data):
    total = data.draw(st.integers(1, 300))
    warmup = data.draw(st.integers(0, total))
    ratio = data.draw(st.floats(0, 1))
    factors = [
        warmup_cosine_factor(step, warmup_steps=warmup, total_steps=total, min_ratio=ratio)
        for step in range(total + 3)
    ]
    rise, fall = factors[: warmup + 1], factors[warmup:]
    assert all(0 < factor <= 1 for factor in factors[:total])
    assert all(a <= b for a, b in itertools.pairwise(rise)) or warmup == total
    assert all(a >= b for a, b in itertools.pairwise(fall))
    assert factors[total:] == [ratio] * 3
    if warmup < total:
        assert factors[warmup] == 1.0


def test_golden_values():
    """Half of the cosine is 1/2 down; a quarter is (1 + cos(pi/4)) / 2."""
    factor = {
        step: warmup_cosine_factor(step, warmup_steps=100, total_steps=1100) for step in (0, 49, 350, 600)
    }
    assert factor[0] == 1 / 101
    assert factor[49] == 50 / 101
    assert factor[350] == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert factor[600] == pytest.approx(0.5)


@pytest.mark.parametrize("at", [0, 3, 4, 11, 20, 25])
def test_the_right_rate_is_in_force_right_after_loading(at):
    """torch's own schedulers leave step 0's rate in the optimizer until their next step."""
    schedule = warmup_cosine(sgd(0.5), warmup_steps=4, total_steps=20)
    rates(schedule, at)
    resumed = warmup_cosine(sgd(0.5), warmup_steps=4, total_steps=20)
    resumed.load_state_dict(schedule.state_dict())
    assert rates(resumed, 10) == rates(schedule, 10)


def test_a_share_counts_as_its_steps():
    by_share = warmup_cosine(sgd(), warmup_steps=0.25, total_steps=11)
    by_steps = warmup_cosine(sgd(), warmup_steps=2, total_steps=11)
    assert rates(by_share, 12) == rates(by_steps, 12)
    assert warmup_cosine(sgd(), warmup_steps=0.0, total_steps=3).get_last_lr() == [1.0]


def test_groups_keep_their_ratio():
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.25)])
    schedule = warmup_cosine(optimizer, warmup_steps=3, total_steps=10)
    for _ in range(10):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == 0.25 * first
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"warmup_steps": 11, "total_steps": 10},
            "`warmup_steps` must be at most `total_steps` = 10; got 11",
        ),
        ({"warmup_steps": -1, "total_steps": 10}, "`warmup_steps`"),
        ({"warmup_steps": 1.5, "total_steps": 10}, "`warmup_steps` as a share"),
        ({"warmup_steps": math.nan, "total_steps": 10}, "`warmup_steps` as a share"),
        ({"warmup_steps": 0, "total_steps": 0}, "`total_steps` must be at least 1"),
        ({"warmup_steps": 0, "total_steps": 1, "min_ratio": 1.5}, "`min_ratio` must lie in"),
        ({"warmup_steps": 0, "total_steps": 1, "min_ratio": math.nan}, "`min_ratio`"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        warmup_cosine(sgd(), **options)
    with pytest.raises(ValueError, match=message):
        warmup_cosine_factor(0, **options)


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match="`step` must be at least 0"):
        warmup_cosine_factor(-1, warmup_steps=1, total_steps=2)

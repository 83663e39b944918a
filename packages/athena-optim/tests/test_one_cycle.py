"""One cycle against torch's `OneCycleLR`, rates and momenta; its joints; resuming; refusals."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from athena_optim import one_cycle, one_cycle_factor

OPTIMIZERS = {
    "SGD": lambda lr: torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9),
    "AdamW": lambda lr: torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=lr, betas=(0.9, 0.99)),
}


def in_force(optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    (group,) = optimizer.param_groups
    return (float(group["lr"]), *(float(beta) for beta in group.get("betas", [group.get("momentum")])))


def advance(schedule: LRScheduler, steps: int) -> list[tuple[float, ...]]:
    """Rate and momentum at each of ``steps`` steps; torch's raises when it is called past its end."""
    found = [in_force(schedule.optimizer)]
    for _ in range(steps - 1):
        schedule.optimizer.step()
        schedule.step()
        found.append(in_force(schedule.optimizer))
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize(("rise", "total"), [(3, 10), (30, 100), (1, 3)])
def test_identity_with_torchs(name, shape, three_phase, rise, total):
    """Theirs counts one step more, whose rate is the last one; ours has that rate after the run."""
    ours = one_cycle(
        OPTIMIZERS[name](0.3),
        total_steps=total,
        rise_steps=rise,
        fall_steps=rise if three_phase else None,
        shape=shape,
        initial_ratio=1 / 25,
        min_ratio=1 / 25e4,
        momentum=(0.95, 0.85),
    )
    theirs = OneCycleLR(
        OPTIMIZERS[name](0.3),
        max_lr=0.3,
        total_steps=total + 1,
        pct_start=(rise + 1) / (total + 1),
        anneal_strategy="cos" if shape == "cosine" else "linear",
        three_phase=three_phase,
    )
    for a, b in zip(advance(ours, total + 1), advance(theirs, total + 1), strict=True):
        assert a == pytest.approx(b, rel=1e-12, abs=1e-15)


def test_the_defaults_are_torchs():
    ours = one_cycle(OPTIMIZERS["SGD"](0.3), total_steps=999, momentum=(0.95, 0.85))  # a rise of 299
    theirs = OneCycleLR(OPTIMIZERS["SGD"](0.3), max_lr=0.3, total_steps=1000)
    for a, b in zip(advance(ours, 1000), advance(theirs, 1000), strict=True):
        assert a == pytest.approx(b, rel=1e-12, abs=1e-15)


def test_golden_values():
    """Smith and Topin's figure: linear, 10 times up and down again, then below where it began."""
    shares = [
        one_cycle_factor(
            step,
            total_steps=100,
            rise_steps=0.45,
            fall_steps=0.45,
            shape="linear",
            initial_ratio=0.1,
            min_ratio=0.001,
        )
        for step in (0, 15, 45, 75, 90, 95, 100, 10**6)
    ]
    assert shares == pytest.approx([0.1, 0.4, 1.0, 0.4, 0.1, 0.0505, 0.001, 0.001])


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_no_step_is_a_jump(rise, fall, rest, three):
    options = {"total_steps": rise + fall + rest, "rise_steps": rise, "fall_steps": fall if three else None}
    shares = [one_cycle_factor(step, **options) for step in range(rise + fall + rest + 1)]
    shortest = min(rise, fall, rest) if three else min(rise, fall + rest)
    assert all(abs(a - b) <= math.pi / (2 * shortest) + 1e-12 for a, b in itertools.pairwise(shares))
    assert shares.index(1.0) == rise


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("optimizer_too", [False, True])
@pytest.mark.parametrize("at", [0, 2, 3, 4, 8, 9, 12])
def test_rates_and_momenta_resume_exactly(name, optimizer_too, at):
    def make():
        return one_cycle(OPTIMIZERS[name](0.3), total_steps=9, rise_steps=3, momentum=(0.95, 0.85))

    schedule, resumed = make(), make()
    advance(schedule, at + 1)
    if optimizer_too:
        resumed.optimizer.load_state_dict(schedule.optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    assert advance(resumed, 6) == advance(schedule, 6)


def test_the_momentum_is_left_alone_by_default_and_tensors_are_filled():
    left = one_cycle(OPTIMIZERS["AdamW"](0.3), total_steps=9)
    assert {found[1:] for found in advance(left, 9)} == {(0.9, 0.99)}
    beta = torch.tensor(0.9, dtype=torch.float64)
    optimizer = OPTIMIZERS["SGD"](0.3)
    optimizer.param_groups[0]["momentum"] = beta
    schedule = one_cycle(optimizer, total_steps=9, momentum=(0.95, 0.85))
    plain = one_cycle(OPTIMIZERS["SGD"](0.3), total_steps=9, momentum=(0.95, 0.85))
    found = []
    for _ in range(10):
        found.append(in_force(optimizer))
        schedule.optimizer.step()
        schedule.step()
    assert found == advance(plain, 10)
    assert optimizer.param_groups[0]["momentum"] is beta


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "cos"}, r"`shape` must be one of \['cosine', 'linear'\]; got 'cos'"),
        ({"initial_ratio": 0.0}, "`initial_ratio` must be above 0"),
        ({"initial_ratio": math.nan}, r"`initial_ratio` must lie in \[0, 1\]"),
        ({"rise_steps": 6, "fall_steps": 5}, r"`rise_steps` \+ `fall_steps` must be at most .* got 6 \+ 5"),
        ({"fall_steps": -1}, "`fall_steps` must be at least 0; got -1"),
        ({"momentum": (0.95, 1.0)}, r"`momentum` must be two numbers in \[0, 1\); got \(0.95, 1.0\)"),
        ({"momentum": (math.nan, 0.9)}, "`momentum`"),
        ({"momentum": 0.9}, r"`momentum` must be two numbers in \[0, 1\); got 0.9. Pass that of the ends"),
        ({"momentum": (0.9, 0.8, 0.7)}, r"`momentum` must be two numbers .* got \(0.9, 0.8, 0.7\)"),
        ({"momentum": ()}, r"`momentum` must be two numbers .* got \(\)"),
        ({"momentum": ("0.9", 0.8)}, "`momentum` must be two numbers .* got"),
        ({"momentum": "ab"}, "`momentum` must be two numbers .* got 'ab'"),
    ],
)
def test_bad_options_are_refused(options, message):
    optimizer = OPTIMIZERS["SGD"](0.3)
    with pytest.raises(ValueError, match=message):
        one_cycle(optimizer, total_steps=10, **options)
    assert "initial_lr" not in optimizer.param_groups[0]


@pytest.mark.parametrize("name", ["initial_ratio", "min_ratio"])
@pytest.mark.parametrize("ratio", ["x", None])
def test_a_ratio_that_is_no_number_is_refused(name, ratio):
    with pytest.raises(TypeError, match=f"`{name}` must be a number; got {ratio!r}. Convert it"):
        one_cycle(OPTIMIZERS["SGD"](0.3), total_steps=10, **{name: ratio})


def test_an_optimizer_without_momentum_is_refused():
    optimizer = torch.optim.Adagrad([nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match="`betas` or `momentum` to cycle it; got Adagrad with neither"):
        one_cycle(optimizer, total_steps=10, momentum=(0.95, 0.85))
    assert one_cycle(optimizer, total_steps=10).get_last_lr() == [0.0004]

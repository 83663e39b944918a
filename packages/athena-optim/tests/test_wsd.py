"""Warm-up, stable, decay: its forms' values, its joints, and what it is for, a run that is made longer."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from athena_optim import warmup_cosine_factor, warmup_linear_factor, wsd, wsd_factor

FORMS = {  # as in the papers: from 1 to r while x goes from 0 to 1
    "1-sqrt": lambda x, r: r + (1 - r) * (1 - math.sqrt(x)),
    "linear": lambda x, r: r + (1 - r) * (1 - x),
    "cosine": lambda x, r: r + (1 - r) * (1 + math.cos(math.pi * x)) / 2,
    "exponential": lambda x, r: 0.5 ** (x * math.log2(1 / r)),
}
LARGEST_FALL = {  # of one step of n, of all the way from 1 to r
    "1-sqrt": lambda n, r: (1 - r) / math.sqrt(n),
    "linear": lambda n, r: (1 - r) / n,
    "cosine": lambda n, r: (1 - r) * math.pi / (2 * n),
    "exponential": lambda n, r: 1 - r ** (1 / n),
}


@given(
    st.integers(0, 20), st.integers(0, 20), st.integers(1, 40), st.sampled_from([*FORMS]), st.floats(0.01, 1)
)
def test_the_papers_forms_with_no_jump(warmup, stable, fall, decay, ratio):
    total = warmup + stable + fall
    options = {"warmup_steps": warmup, "total_steps": total, "decay_steps": fall, "min_ratio": ratio}
    shares = [wsd_factor(step, decay=decay, **options) for step in range(total + 1)]
    assert shares[warmup : warmup + stable] == [1.0] * stable
    expected = [FORMS[decay](step / fall, ratio) for step in range(fall + 1)]
    assert shares[warmup + stable :] == pytest.approx(expected, abs=1e-14)
    largest = max(1 / (warmup + 1), LARGEST_FALL[decay](fall, ratio))
    assert all(abs(a - b) <= largest + 1e-12 for a, b in itertools.pairwise(shares))


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("1-sqrt", [1.0, 0.5, 1 - math.sqrt(0.5), 0.0]),
        ("linear", [1.0, 0.75, 0.5, 0.0]),
        ("cosine", [1.0, (2 + math.sqrt(2)) / 4, 0.5, 0.0]),
    ],
)
def test_golden_values(decay, expected):
    """A tenth of 1,000 steps; a quarter, half and all of the way down."""
    options = {"warmup_steps": 10, "total_steps": 1000, "decay": decay}
    assert [wsd_factor(step, **options) for step in (900, 925, 950, 1000)] == pytest.approx(expected)


def test_the_exponential_halves_at_equal_distances():
    """MiniCPM's f is 0.5 to the number of half-lives; 1/16 is four of them."""
    options = {"warmup_steps": 0, "total_steps": 100, "decay_steps": 40, "min_ratio": 1 / 16}
    shares = [wsd_factor(step, decay="exponential", **options) for step in (60, 70, 80, 90, 100)]
    assert shares == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8, 1 / 16])


@given(st.integers(0, 30), st.integers(1, 40), st.floats(0, 1), st.integers(0, 80))
def test_without_a_stable_phase_it_is_its_siblings(warmup, fall, ratio, step):
    options = {"warmup_steps": warmup, "total_steps": warmup + fall, "min_ratio": ratio}
    for decay, sibling in (("cosine", warmup_cosine_factor), ("linear", warmup_linear_factor)):
        assert wsd_factor(step, decay_steps=fall, decay=decay, **options) == sibling(step, **options)


def test_a_run_resumed_before_its_decay_can_be_made_longer():
    """What the schedule is for: nothing before the decay depends on the length of the run."""

    def make(total):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
        return wsd(optimizer, warmup_steps=5, total_steps=total, decay_steps=10)

    def rates(schedule, steps):
        found = []
        for _ in range(steps):
            found.append(schedule.get_last_lr()[0])
            schedule.optimizer.step()
            schedule.step()
        return found

    short, long, resumed = make(50), make(80), make(80)
    expected = rates(long, 80)
    assert rates(short, 40) == expected[:40]
    resumed.load_state_dict(short.state_dict())
    assert rates(resumed, 40) == expected[40:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"decay": "sqrt"},
            r"`decay` must be one of \['1-sqrt', 'linear', 'cosine', 'exponential'\]; got 'sqrt'",
        ),
        ({"decay": "exponential"}, "`min_ratio` must be above 0 where `decay` is 'exponential'; got 0.0"),
        (
            {"warmup_steps": 6, "decay_steps": 5},
            r"`warmup_steps` \+ `decay_steps` must be at most `total_steps` = 10; got 6 \+ 5",
        ),
        ({"decay_steps": -1}, "`decay_steps` must be at least 0; got -1"),
        ({"decay_steps": math.nan}, "`decay_steps` as a share"),
    ],
)
def test_bad_options_are_refused(options, message):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=message):
        wsd(optimizer, **{"warmup_steps": 1, "total_steps": 10, **options})
    assert "initial_lr" not in optimizer.param_groups[0]


def test_no_length_of_the_decay_is_not_one():
    """None means all that the warm-up leaves to the shared phases, and nothing here."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(TypeError, match=r"`decay_steps` must be a number .* got None. Leave it out"):
        wsd(optimizer, warmup_steps=1, total_steps=10, decay_steps=None)  # type: ignore[arg-type]
    assert "initial_lr" not in optimizer.param_groups[0]


def test_a_ratio_that_is_no_number_is_refused_also_by_the_exponential():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(TypeError, match="`min_ratio` must be a number; got 'x'"):
        wsd(optimizer, warmup_steps=1, total_steps=10, decay="exponential", min_ratio="x")  # type: ignore[arg-type]

"""What the schedules' options may be: steps and shares, and the refusals, alike for all."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

import athena_optim

PHASE = {  # each schedule, and the option that is its first phase
    "one_cycle": "rise_steps",
    "warmup_constant": "warmup_steps",
    "warmup_cosine": "warmup_steps",
    "warmup_inverse_sqrt": "warmup_steps",
    "warmup_linear": "warmup_steps",
    "warmup_polynomial": "warmup_steps",
    "wsd": "warmup_steps",
}
ENDLESS = ("warmup_constant", "warmup_inverse_sqrt")


def make_factor(name: str, **options) -> partial:
    return partial(getattr(athena_optim, f"{name}_factor"), **options)


def refused(name: str, options: dict, error: type[Exception], message: str) -> None:
    """By the function and by the schedule alike, in one line, with the optimizer left as it was."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(error, match=message) as by_factor:
        make_factor(name, **options)(0)
    with pytest.raises(error, match=message):
        getattr(athena_optim, name)(optimizer, **options)
    assert "\n" not in str(by_factor.value)
    assert "initial_lr" not in optimizer.param_groups[0]


@pytest.mark.parametrize("name", PHASE)
@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (-1, ValueError, "`step` must be at least 0; got -1"),
        (1.0, TypeError, "`step` must be an integer; got 1.0"),
        (math.nan, TypeError, "`step` must be an integer; got nan"),
    ],
)
def test_a_bad_step_is_refused(name, step, error, message):
    with pytest.raises(error, match=message):
        make_factor(name, total_steps=5, **{PHASE[name]: 2})(step)


@pytest.mark.parametrize("name", PHASE)
@pytest.mark.parametrize(
    ("total", "error", "message"),
    [
        (0, ValueError, "`total_steps` must be at least 1; got 0"),
        (-5, ValueError, "`total_steps` must be at least 1; got -5"),
        (1e4, TypeError, "`total_steps` must be an integer; got 10000.0. Round it to whole steps"),
        (math.nan, TypeError, "`total_steps` must be an integer; got nan"),
    ],
)
def test_a_bad_total_is_refused(name, total, error, message):
    refused(name, {PHASE[name]: 0, "total_steps": total}, error, message)


@pytest.mark.parametrize("name", PHASE)
@pytest.mark.parametrize(
    ("length", "error", "message"),
    [
        (11, ValueError, "must be at most `total_steps` = 10; got 11"),
        (-1, ValueError, "must be at least 0; got -1"),
        (1.5, ValueError, r"as a share must lie in \[0, 1\]; got 1.5. Give steps as an int"),
        (-0.1, ValueError, r"as a share must lie in \[0, 1\]; got -0.1"),
        (math.nan, ValueError, r"as a share must lie in \[0, 1\]; got nan"),
        ("3", TypeError, "must be an integer; got '3'"),
    ],
)
def test_a_bad_length_is_refused(name, length, error, message):
    refused(name, {PHASE[name]: length, "total_steps": 10}, error, f"`{PHASE[name]}`.* {message}")


@pytest.mark.parametrize("name", [name for name in PHASE if name not in ENDLESS])
@pytest.mark.parametrize("ratio", [-0.1, 1.5, math.nan])
def test_a_bad_ratio_is_refused(name, ratio):
    options = {PHASE[name]: 1, "total_steps": 10, "min_ratio": ratio}
    refused(name, options, ValueError, rf"`min_ratio` must lie in \[0, 1\], .* got {ratio}")


@pytest.mark.parametrize("name", [name for name in PHASE if name not in ENDLESS])
@pytest.mark.parametrize("ratio", ["x", None, [0.1]])
def test_a_ratio_that_is_no_number_is_refused(name, ratio):
    options = {PHASE[name]: 1, "total_steps": 10, "min_ratio": ratio}
    refused(name, options, TypeError, "`min_ratio` must be a number; got .* Convert it")


@pytest.mark.parametrize("name", PHASE)
def test_an_int_is_steps_and_a_float_is_a_share(name):
    more = {"decay_steps": 0} if name == "wsd" else {}  # leaves room for a warm-up of the whole run

    def shares(length):
        return [make_factor(name, total_steps=100, **{PHASE[name]: length}, **more)(t) for t in range(101)]

    assert shares(1.0) == shares(100) != shares(1)
    assert shares(0.29) == shares(29), "the float next to 0.29 is below it"
    assert shares(0.299) == shares(29)
    assert shares(0.0) == shares(0)


@pytest.mark.parametrize("name", ENDLESS)
def test_only_a_share_needs_a_total(name):
    by_steps, by_share = (
        make_factor(name, **options)
        for options in ({"warmup_steps": 5}, {"warmup_steps": 0.05, "total_steps": 100})
    )
    assert [by_steps(step) for step in range(200)] == [by_share(step) for step in range(200)]
    refused(
        name, {"warmup_steps": 0.05}, ValueError, "`warmup_steps` as a share must come with `total_steps`"
    )

"""The schedules against Hugging Face's transformers, which warm up from 0 and count one step more."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

import athena_optim

WARMUP, TOTAL = 7, 40
BY_LENGTH = {"num_warmup_steps": WARMUP + 1, "num_training_steps": TOTAL + 1}
PAIRS = [
    ("warmup_constant", {}, transformers.get_constant_schedule_with_warmup, {"num_warmup_steps": WARMUP + 1}),
    ("warmup_inverse_sqrt", {}, transformers.get_inverse_sqrt_schedule, {"num_warmup_steps": WARMUP + 1}),
    ("warmup_cosine", {}, transformers.get_cosine_schedule_with_warmup, BY_LENGTH),
    ("warmup_linear", {}, transformers.get_linear_schedule_with_warmup, BY_LENGTH),
    (
        "warmup_polynomial",
        {"power": 1.7, "min_ratio": 0.1},
        transformers.get_polynomial_decay_schedule_with_warmup,
        {**BY_LENGTH, "power": 1.7, "lr_end": 0.03},
    ),
]
for _decay in ("linear", "cosine", "1-sqrt"):
    _lengths = {
        "num_warmup_steps": WARMUP + 1,
        "num_stable_steps": TOTAL - WARMUP - 12,
        "num_decay_steps": 12,
    }
    PAIRS.append(
        (
            "wsd",
            {"decay": _decay, "decay_steps": 12},
            transformers.get_wsd_schedule,
            {**_lengths, "decay_type": _decay},
        )
    )


def rates(schedule, steps):
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(("name", "options", "function", "their_options"), PAIRS)
def test_ours_at_a_step_is_theirs_at_the_next(name, options, function, their_options):
    ours, theirs = (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3) for _ in range(2))
    schedule = getattr(athena_optim, name)(ours, warmup_steps=WARMUP, total_steps=TOTAL, **options)
    expected = rates(function(theirs, **their_options), TOTAL + 2)
    assert expected[0] == 0.0
    assert rates(schedule, TOTAL + 1) == pytest.approx(expected[1:], rel=1e-12, abs=1e-15)

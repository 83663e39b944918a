"""What the package offers through Athena's hooks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import athena_core
from athena_optim import AdamW, _plugin, param_groups, warmup_cosine
from athena_optim._plot import plot_schedule
from athena_optim._warmup_cosine import warmup_cosine_factor

HEAVY = "import sys; import {module}; print([m for m in ('torch', 'numpy') if m in sys.modules])"


@pytest.mark.parametrize("module", ["athena_optim", "athena_optim._plugin"])
def test_import_brings_no_torch(module):
    done = subprocess.run([sys.executable, "-c", HEAVY.format(module=module)], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_plugin_file_is_short():
    assert len(Path(_plugin.__file__).read_text(encoding="utf-8").splitlines()) < 80


def test_components_are_found_by_name():
    model = nn.Linear(3, 2)
    groups = athena_core.create("param-groups", "decay-matrices", model, weight_decay=0.2)
    optimizer = athena_core.create("optimizer", "adamw", groups, lr=0.5)
    schedule = athena_core.create("schedule", "warmup-cosine", optimizer, warmup_steps=1, total_steps=5)
    assert type(optimizer) is AdamW
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    assert [group["weight_decay"] for group in param_groups(model, weight_decay=0.2)] == [0.2, 0.0]
    assert schedule.get_last_lr() == [0.25, 0.25]


def test_a_schedule_is_plotted():
    (axes,) = plot_schedule(warmup_cosine).axes
    shares = axes.lines[0].get_ydata()
    expected = [warmup_cosine_factor(step, warmup_steps=100, total_steps=1000) for step in range(1001)]
    torch.testing.assert_close(list(shares), expected)

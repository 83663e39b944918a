"""What the package offers through Athena's hooks, and its conformance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import athena_core
from athena_core import Component
from athena_core.testing import conformance
from athena_nn import NoPositions, Positions, RotaryPositions, _plugin
from athena_nn._laws import positions_checks
from athena_nn._rotary import rotary

HEAVY = "import sys; import {module}; print([m for m in ('torch', 'numpy') if m in sys.modules])"
test_conformance = conformance("athena-nn")


@pytest.mark.parametrize("module", ["athena_nn", "athena_nn._plugin"])
def test_import_brings_no_torch(module):
    done = subprocess.run([sys.executable, "-c", HEAVY.format(module=module)], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_plugin_file_is_short():
    assert len(Path(_plugin.__file__).read_text(encoding="utf-8").splitlines()) < 80


def test_positions_are_found_by_name():
    assert type(athena_core.create("positions", "rotary", head_dim=8)) is RotaryPositions
    assert type(athena_core.create("positions", "none")) is NoPositions


class Collapsing(Positions):
    """Rotary with its phases in the model's own dtype (pitfall 4)."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 10_000.0 ** -(torch.arange(0, head_dim, 2) / head_dim))

    def phases(self, positions, dtype):
        angles = positions[..., None].to(self.frequencies.dtype) * self.frequencies
        angles = angles[:, None] if positions.ndim == 2 else angles
        return angles.cos(), angles.sin()

    def rotate(self, x, phases):
        return rotary(x, *phases)


class ByOrder(Positions):
    """Learned positions that look at the order in the tensor instead of the positions given."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(64, embed_dim))

    def embed(self, x, positions):
        return x + self.table[: x.shape[1]]


class Leaking(Positions):
    """Passes tokens on from the future."""

    def embed(self, x, positions):
        return x + x.roll(-1, dims=1)


@pytest.mark.parametrize(
    ("positions", "law"),
    [
        (Collapsing, "a model cast to bfloat16 keeps its phases"),
        (ByOrder, "goes on at any position"),
        (Leaking, "a causal model stays causal"),
    ],
)
def test_broken_positions_fail_their_law(positions, law):
    failed = set()
    for check in positions_checks(
        Component("positions", "broken", "tests:broken", "Breaks a law"), positions
    ):
        try:
            check()
        except AssertionError:
            failed.add(check.name)
    assert law in failed

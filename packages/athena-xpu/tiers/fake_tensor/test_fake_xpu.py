"""Models, ops, optimizers and layers of integers make what they need where their inputs are: on ``xpu:0``."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

KINDS = ("decoder", "encoder", "op", "optimizer", "quantized")


@cache
def outcomes() -> dict[str, list[str] | str]:
    """Of each case its tensors' devices, or its error."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "cases.py")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return dict(json.loads(line) for line in ran.stdout.splitlines())


@pytest.mark.parametrize("kind", KINDS)
def test_all_stays_on_the_device(kind: str) -> None:
    found = {name: outcome for name, outcome in outcomes().items() if name.startswith(kind)}
    assert len(found) >= 3
    assert {name: one for name, one in found.items() if one != ["xpu:0"]} == {}


def test_mistakes_are_seen() -> None:
    found = {name: one for name, one in outcomes().items() if name.startswith("mistake")}
    assert found.pop("mistake: result") == ["cpu"]
    assert len(found) == 3
    assert all("FakeTensorDeviceMismatchError" in one for one in found.values()), found

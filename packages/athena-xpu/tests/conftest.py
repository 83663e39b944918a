"""Every test starts from the same seed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, settings

# The same examples everywhere, and no deadlines: machines are shared and noisy.
settings.register_profile(
    "athena", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("athena")

# helpers here are imported by several files; pytest's importlib mode adds no folder to the path.
sys.path.insert(0, str(Path(__file__).parent))
from fake_xpu import FakeXPU, properties  # noqa: E402


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def fake_xpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeXPU]:
    """Make `torch.xpu` see the devices whose architectures or properties are given."""

    def install(*devices: str | SimpleNamespace) -> FakeXPU:
        told = [properties(one) if isinstance(one, str) else one for one in devices]
        return FakeXPU(monkeypatch, told)

    return install

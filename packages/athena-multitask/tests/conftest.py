"""Every test starts from the same seed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# The same examples everywhere, and no deadlines: machines are shared and noisy.
settings.register_profile(
    "athena", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("athena")

torch.set_num_threads(1)  # networks are so small here that a second thread costs more than it does

# helpers here are imported by several files; pytest's importlib mode adds no folder to the path.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)

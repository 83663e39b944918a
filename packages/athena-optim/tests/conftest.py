"""Every test starts from the same seed, and leaves no thread setting behind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

# The same examples everywhere, and no deadlines: machines are shared and noisy.
settings.register_profile(
    "athena", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("athena")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)

"""Every test starts from the same seed; what stands for the device is installed before the packages load."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)  # tensors too small for a second thread

from stand_in import install  # noqa: E402  # found by the path above

install()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)

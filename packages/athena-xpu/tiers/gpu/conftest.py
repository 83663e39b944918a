"""Kernels on the GPU that is here, an Arc or another; all is skipped where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)

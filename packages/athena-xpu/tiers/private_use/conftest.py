"""One made-up device a process, and Triton's interpreter, switched on before Triton is imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"

import pytest
import torch

torch.set_num_threads(1)  # the interpreter works through NumPy, on tensors too small for a second thread

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)

"""Fake tensors of ``xpu:0`` are made in a process of their own: torch aborts if one requires a gradient."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

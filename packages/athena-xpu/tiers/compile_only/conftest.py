"""Kernels are compiled on the CPU for GPUs that are not here; Triton's interpreter must be off."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

# All before Triton is imported, which reads them then.
os.environ.pop("TRITON_INTERPRET", None)
os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp(prefix="athena-triton-")  # nothing compiled before counts
atexit.register(shutil.rmtree, os.environ["TRITON_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where it is not set

sys.path.insert(0, str(Path(__file__).parent))

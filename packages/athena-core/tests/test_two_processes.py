"""Checks in two processes: what fails is named, and the others are run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist

from athena_core.testing import run_in_two_processes

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")

PROGRAM = """
import pytest
from athena_core.testing import take_part

def check(name, rank, folder):
    if name == "fails":
        with pytest.raises(ValueError):
            pass

take_part(["fails", "passes"], check)
"""


def test_a_check_that_pytest_fails_is_named(tmp_path: Path) -> None:
    program, folder = tmp_path / "program.py", tmp_path / "folder"
    program.write_text(PROGRAM)
    folder.mkdir()
    failed = run_in_two_processes(program, folder)
    assert failed.keys() == {"fails"}
    assert "DID NOT RAISE" in failed["fails"]

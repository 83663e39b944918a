"""What the tests of several packages share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def athena(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command line in a process of its own, in an empty folder."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "athena_core", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    return run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A small file of real text."""
    from pydoc_data.topics import topics

    path = tmp_path / "text.txt"
    path.write_text(topics["typesseq"] + topics["formatstrings"], encoding="utf-8")
    return path

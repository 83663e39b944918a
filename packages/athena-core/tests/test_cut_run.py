"""`athena_core.testing.CutRun` ends after the step that it is told, saved, and goes on from there."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from rich.console import Console

from athena_core import Interrupted
from athena_core.testing import CutRun


def logged(folder: Path, cut: int) -> list[int]:
    """The steps in the folder's log after a run of four steps that is cut there."""
    with CutRun(folder, cut=cut, device="cpu", console=Console(quiet=True)) as run:
        for step in run.steps(4):
            run.log(step, loss=1 / step)
        run.finish({"loss": 0.25})
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_cut_run_is_interrupted_after_its_step_and_resumed_by_one_without(tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as interrupt:
        logged(tmp_path / "run", cut=2)
    assert interrupt.value.signal == signal.SIGINT
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["step"]) == ("interrupted", 2)
    assert logged(tmp_path / "run", cut=0) == [1, 2, 3, 4]


def test_no_cut_and_one_after_the_end_leave_the_run_whole(tmp_path: Path) -> None:
    assert logged(tmp_path / "never", cut=0) == logged(tmp_path / "late", cut=5) == [1, 2, 3, 4]

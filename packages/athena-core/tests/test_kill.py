"""SIGKILL at any moment, then `athena run --resume`: the same bytes as a run left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from killed_runs import KilledRun, steps
from rich.console import Console

from athena_core import Run

N_STEPS = 300


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL and process groups are POSIX")
def test_a_run_killed_three_times_ends_with_the_bytes_of_one_left_alone(tmp_path: Path) -> None:
    whole, killed = (KilledRun(tmp_path / name, "--steps", str(N_STEPS)) for name in ("whole", "killed"))
    assert whole.attempt()
    for n_lines in (0, 60, 120):
        assert not killed.attempt(lambda n_lines=n_lines: killed.n_lines() > n_lines)
    assert killed.attempt()
    metrics, _ = killed.result()
    assert steps(metrics) == list(range(1, N_STEPS + 1))
    assert killed.result() == whole.result()
    assert killed.half_written() == set()


def test_a_resume_deletes_what_a_kill_left_half_written(tmp_path: Path) -> None:
    def begin() -> Run:
        return Run(tmp_path / "run", device="cpu", console=Console(quiet=True))

    with begin() as run:
        run.checkpoint({"x": 1}, step=1)
    halves = [run.dir / "checkpoints" / ".step-00000002.pt.4711.tmp", run.dir / ".summary.json.4711.tmp"]
    for half in halves:
        half.write_bytes(b"PK")
    with begin() as run:
        assert run.restore() == {"x": 1}
    assert not any(half.exists() for half in halves)

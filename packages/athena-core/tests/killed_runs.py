"""Start `athena run` in a process of its own, kill it with SIGKILL, resume it, and compare."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fake_distributions import plugin_source, write_distribution

TESTS = Path(__file__).parent
ATHENA = [sys.executable, "-c", "import sys; from athena_core._cli import main; sys.exit(main())", "run"]
OF_EVERY_ATTEMPT = ["--device", "cpu", "--checkpoint-seconds", "0.2"]
POLL_SECONDS = 0.002


class KilledRun:
    """One run of the recipe `killed` in ``folder``, which holds nothing else."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._site, self._out, self._options = folder / "site", folder / "out", options
        source = plugin_source("recipe/killed").replace("builtins:dict", "killed_recipe:Killed")
        write_distribution(self._site, "killed", source)

    @property
    def path(self) -> Path | None:
        """The run's folder, once there is one."""
        return next(self._out.glob("killed-*"), None)

    def attempt(self, moment: Callable[[], bool] = lambda: False) -> bool:
        """Start or resume the run; kill its process group at ``moment``. True if it ended before."""
        new = ["killed", "--out", str(self._out), *self._options]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ATHENA_")}
        paths = os.pathsep.join([str(self._site), str(TESTS)])
        process = subprocess.Popen(
            [*ATHENA, *(["--resume", str(self.path)] if self.path else new), *OF_EVERY_ATTEMPT],
            env={
                **inherited,
                "PYTHONPATH": paths,
                "ATHENA_CONFIG_DIR": str(self._site),
                "ATHENA_STRICT": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                while process.poll() is None and not moment():
                    time.sleep(POLL_SECONDS)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            printed = process.communicate()[0]
        if process.returncode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"athena run exited with {process.returncode}:\n{printed}")
        return process.returncode == 0

    def n_lines(self) -> int:
        """How many lines of metrics there are so far."""
        file = self.path and self.path / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file and file.exists() else 0

    def half_written(self) -> set[Path]:
        """The files that a kill cut short."""
        return set() if self.path is None else set(self.path.rglob(".*.tmp"))

    def result(self) -> tuple[bytes, str]:
        """``metrics.jsonl``, and the final metrics as they stand in ``summary.json``."""
        assert self.path is not None
        summary = json.loads((self.path / "summary.json").read_text())
        return (self.path / "metrics.jsonl").read_bytes(), json.dumps(summary["metrics"])


def steps(metrics: bytes) -> list[int]:
    """The steps of the lines of a ``metrics.jsonl``."""
    return [json.loads(line)["step"] for line in metrics.splitlines()]

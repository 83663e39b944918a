"""Checks in two processes that talk, as of a distributed training, started once for all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

_PROCESSES = 2
_PATIENCE = 240  # seconds, until both are killed


def run_in_two_processes(program: str | Path, folder: Path) -> dict[str, str]:
    """Start a program twice, and return what failed in either process, by the name of the check.

    Args:
        program: a Python file, which calls `take_part`.
        folder: an empty one, for what the processes tell each other.

    Raises AssertionError, with what was printed, for a process that ended otherwise than by its last check.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> program = "from athena_core.testing import *; take_part(['sum', 'product'], lambda *given: 1 / 0)"
    >>> _ = (folder / "program.py").write_text(program)
    >>> sorted(run_in_two_processes(folder / "program.py", folder))
    ['product', 'sum']
    """
    commands = [
        [sys.executable, "-W", "ignore", str(program), str(rank), str(folder)] for rank in range(_PROCESSES)
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    programs = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for command in commands
    ]
    failed: dict[str, str] = {}
    try:
        errors = [program.communicate(timeout=_PATIENCE)[1] for program in programs]
    finally:
        for started in programs:
            started.kill()
    for rank, (started, error) in enumerate(zip(programs, errors, strict=True)):
        told = folder / f"told-{rank}.json"
        if started.returncode != 0 or not told.exists():
            raise AssertionError(f"process {rank} did not come to its end: {error}")
        failed |= {name: f"process {rank}: {text}" for name, text in json.loads(told.read_text()).items()}
    return failed


def take_part(names: Sequence[str], check: Callable[[str, int, Path], object]) -> None:
    """Be one of the two processes of `run_in_two_processes`: run ``check(name, rank, folder)`` for each name.

    Each check has a process group of its own, with gloo: after a failure the other process may wait in the
    last one.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> program = "from athena_core.testing import *; take_part(['it prints'], print)"
    >>> _ = (folder / "program.py").write_text(program)
    >>> run_in_two_processes(folder / "program.py", folder)
    {}
    """
    import torch
    import torch.distributed as dist

    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    failed: dict[str, str] = {}
    for number, name in enumerate(names):
        store = dist.FileStore(str(folder / f"store-{number}"), _PROCESSES)
        patience = timedelta(seconds=20)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=_PROCESSES, timeout=patience)
        dist.barrier()  # a check that sends nothing would end before the other process is connected
        try:
            check(name, rank, folder)
        except BaseException:  # noqa: BLE001  pytest's failures too; reported by the test of this name
            failed[name] = traceback.format_exc()
        dist.destroy_process_group()
    (folder / f"told-{rank}.json").write_text(json.dumps(failed))
    os._exit(0)  # all has been told; threads that process groups leave may abort an orderly end

"""Kill a short run with SIGKILL at drawn moments, resume it until done, and compare with one left alone.

    python bench_kill.py [--repeats 30] [--json FILE]

Each repeat is one run: killed at a moment drawn uniformly from the time that it takes, start of Python
included, then resumed, and every second time on average killed again. The bar: all of them end with the
bytes of the uninterrupted run in metrics.jsonl, and with its final metrics.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from athena_core.testing.bench import parser, report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from killed_runs import KilledRun, steps

AGAIN = 0.5  # the probability that a resumed run is killed as well


def reference() -> tuple[tuple[bytes, str], float]:
    """What the run gives when nothing happens to it, and the seconds it takes."""
    with tempfile.TemporaryDirectory() as folder:
        run = KilledRun(Path(folder))
        run.attempt()  # fills the bytecode caches
    with tempfile.TemporaryDirectory() as folder:
        run = KilledRun(Path(folder))
        begun = time.perf_counter()
        run.attempt()
        return run.result(), time.perf_counter() - begun


def kill_and_resume(folder: Path, seconds: float, draws: random.Random) -> dict[str, Any]:
    """One run, killed and resumed until it is done."""
    run = KilledRun(folder)
    row: dict[str, Any] = {"kills": 0, "before the folder": 0, "in a write": 0, "at lines": []}
    doomed = True
    while True:
        at = time.perf_counter() + (draws.uniform(0.0, seconds) if doomed else float("inf"))
        before = run.half_written()
        if run.attempt(lambda at=at: time.perf_counter() >= at):
            return {**row, "result": run.result(), "left half": len(run.half_written())}
        row["kills"] += 1
        row["before the folder"] += run.path is None
        row["in a write"] += run.half_written() > before
        row["at lines"].append(run.n_lines())
        doomed = draws.random() < AGAIN


def main() -> None:
    options = parser(__doc__, repeats=30).parse_args()
    draws = random.Random(0)
    whole, seconds = reference()
    n_steps = len(steps(whole[0]))
    if steps(whole[0]) != list(range(1, n_steps + 1)):
        raise SystemExit("the uninterrupted run has gaps or repeats in metrics.jsonl")
    rows = []
    while len(rows) < options.repeats:
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            row = kill_and_resume(Path(folder), seconds, draws)
        row["equal"] = row.pop("result") == whole
        if row["kills"] == 0 and row["equal"]:  # done before its moment: draw another, from the time it took
            seconds = min(seconds, time.perf_counter() - begun)
            continue
        rows.append({"case": f"run {len(rows) + 1}", **row})
    print(f"{n_steps} steps in {seconds:.1f} s, start of Python included")
    n_equal = sum(row["equal"] for row in rows)
    sums = {
        name: sum(row[name] for row in rows)
        for name in ("kills", "before the folder", "in a write", "left half")
    }
    total = {"case": "bit-equal", "ours": n_equal, "peers": {"bar": len(rows)}, "ratio": n_equal / len(rows)}
    report([*rows, {**total, "unit": "runs", **sums}], options.json)
    if n_equal < len(rows):
        raise SystemExit(f"{len(rows) - n_equal} of {len(rows)} runs differ from the uninterrupted one")


if __name__ == "__main__":
    main()

"""Time the import of each installed package in a new process; the bar is 60 ms, and nothing heavy until used.

    python bench_import.py [--repeats 20] [--json FILE]

The time is that of the import statement; the start of Python itself is not in it.
"""

from __future__ import annotations

import subprocess
import sys

from athena_core._discovery import scan
from athena_core.testing.bench import medians, parser, report, row

HEAVY = ("torch", "numpy", "triton")
BAR = 60.0
TIMED = """
import sys, time
begun = time.perf_counter()
import {}
print((time.perf_counter() - begun) * 1e3, *sys.modules)
"""


def import_once(package: str) -> tuple[float, list[str]]:
    """Import a package in a process of its own; return milliseconds and the heavy modules it brought."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(package)], check=True, capture_output=True, text=True
    )
    milliseconds, *modules = done.stdout.split()
    return float(milliseconds), [name for name in HEAVY if name in modules]


def main() -> None:
    options = parser(__doc__, repeats=20).parse_args()
    rows = []
    for package in sorted({found.value.partition(".")[0] for found in scan()}):
        _, heavy = import_once(package)  # fills the bytecode caches too
        (ours,) = medians(options.repeats, lambda package=package: import_once(package)[0])
        rows.append(row(package, ours=ours, peers={"bar": BAR}, unit="ms", heavy=heavy))
    report(rows, options.json)


if __name__ == "__main__":
    main()

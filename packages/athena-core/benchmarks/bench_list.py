"""Time `athena list` from process start, with many plugins installed.

    python bench_list.py [--repeats 20] [--json FILE]

Each case is a folder of generated distributions on PYTHONPATH, beside whatever is installed. The bar:
150 ms with 200 components from 30 plugins, 1 s with 500 plugins, and no torch, numpy or triton imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from athena_core.testing.bench import medians, parser, report, row

HEAVY = ("torch", "numpy", "triton")
LIST = "from athena_core._cli import main; main(['list'])"
CASES = [("30 plugins, 200 components", 30, 200, 150.0), ("500 plugins, 1000 components", 500, 1000, 1000.0)]


def write_plugins(folder: Path, plugins: int, components: int) -> None:
    """Generate distributions whose plugin modules offer ``components`` between them."""
    for index in range(plugins):
        offered = range(index, components, plugins)
        lines = [
            f"Component('kind-{i % 10}', 'part-{i}', 'missing:Part', 'Part number {i}')," for i in offered
        ]
        package = folder / f"bench_{index}"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "_plugin.py").write_text(
            "from athena_core import Component, hookimpl\n\n\n@hookimpl\ndef athena_components():\n"
            f"    return [{' '.join(lines)}]\n"
        )
        info = folder / f"bench_{index}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: bench-{index}\nVersion: 1.0\n"
            "Requires-Dist: athena-core<1,>=0.1\n\nText.\n"
        )
        (info / "entry_points.txt").write_text(f"[athena]\nbench = bench_{index}._plugin\n")


def run(code: str, environment: dict[str, str]) -> tuple[float, str]:
    """Run Python code in a process of its own; return milliseconds and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    return (time.perf_counter() - start) * 1e3, done.stdout


def measure(folder: Path, components: int, repeats: int) -> tuple[float, float, list[str]]:
    """Return the medians of listing and of starting Python, in ms, and the heavy modules imported."""
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "ATHENA_CONFIG_DIR": str(folder),
        "ATHENA_STRICT": "1",
    }
    _, printed = run(f"{LIST}; import sys; print(*sys.modules)", environment)  # fills the bytecode caches too
    *rows, modules = printed.splitlines()
    if sum("Part number" in row for row in rows) != components:
        raise SystemExit(f"expected {components} components in the list; got:\n{printed}")
    ours, python = medians(repeats, lambda: run(LIST, environment)[0], lambda: run("", environment)[0])
    return ours, python, [name for name in HEAVY if name in modules.split()]


def main() -> None:
    options = parser(__doc__, repeats=20).parse_args()
    rows = []
    for case, plugins, components, bar in CASES:
        with tempfile.TemporaryDirectory() as folder:
            write_plugins(Path(folder), plugins, components)
            ours, python, heavy = measure(Path(folder), components, options.repeats)
        rows.append(row(case, ours=ours, peers={"bar": bar}, unit="ms", python=python, heavy=heavy))
    report(rows, options.json)


if __name__ == "__main__":
    main()

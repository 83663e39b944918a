"""What the benchmarks here share: their options, medians of things timed in turn, table and JSON."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def parser(description: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """The options of every benchmark: ``--repeats N`` and ``--json FILE``, named after the script."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--repeats", type=int, default=repeats, metavar="N")
    made.add_argument("--json", type=Path, default=Path(f"{Path(sys.argv[0]).stem}.json"), metavar="FILE")
    return made


def medians(repeats: int, *measures: Callable[[], float]) -> list[float]:
    """The median of each measure, all of them taken in turn so that they meet the same load."""
    rounds = [[measure() for measure in measures] for _ in range(repeats)]
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


def report(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Print one line a row, and write the rows to ``file``.

    A row has ``case``, ``ours``, then a peer or ``bar``, ``ratio`` (above 1 is better), and ``unit``.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = [names, *([_cell(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        first, *others = (
            f"{cell:{align}{width}}"
            for cell, width, align in zip(cells, widths, "<" + ">" * len(names), strict=False)
        )
        print("  ".join([first, *others]))
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)

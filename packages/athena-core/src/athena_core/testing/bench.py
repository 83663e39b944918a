"""What benchmarks share: ours and the peers timed in turn, a table, and JSON with one row a case.

A benchmark is a script, ``benchmarks/bench_NAME.py``. It compares outputs first, times, and reports:

>>> ours, peer = medians(3, lambda: seconds(lambda: sum(range(9))), lambda: seconds(lambda: sum([1] * 9)))
>>> rows = [row("nine numbers", ours=ours, peers={"list": peer}, unit="s")]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def parser(description: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """The options of every benchmark: ``--repeats N``, and ``--json FILE``, named after the script.

    >>> parser("How long it takes.", repeats=20).parse_args([]).repeats
    20
    """
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--repeats", type=int, default=repeats, metavar="N")
    made.add_argument("--json", type=Path, default=Path(f"{Path(sys.argv[0]).stem}.json"), metavar="FILE")
    return made


def run(options: argparse.ArgumentParser, rows: Callable[..., Iterable[Mapping[str, Any]]]) -> None:
    """The command line of a benchmark of torch: report ``rows(**options)``, from a file's last lines.

    Args:
        options: those of `parser`, and the benchmark's own. ``--threads N``, torch's threads, joins them.
        rows: gets all options but ``json`` and ``threads``.

    >>> import os, torch
    >>> from unittest.mock import patch
    >>> def rows(*, repeats):
    ...     yield row(f"{repeats} times", ours=2.0, peers={"torch": 4.0}, unit="s")
    >>> given = ["--repeats=3", f"--json={os.devnull}", f"--threads={torch.get_num_threads()}"]
    >>> with patch("sys.argv", ["bench.py", *given]):
    ...     run(parser("How long it takes.", repeats=20), rows)
    case     ours  torch  ratio  unit
    3 times     2      4      2     s
    """
    import torch  # benchmarks of what needs no torch use the rest of this file

    options.add_argument("--threads", type=int, default=2, metavar="N")
    chosen = vars(options.parse_args())
    file, threads = chosen.pop("json"), chosen.pop("threads")
    torch.set_num_threads(threads)
    report(list(rows(**chosen)), file)


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call. On a device that works in the background, ``function`` must wait for it.

    >>> seconds(lambda: time.sleep(0.01)) >= 0.01
    True
    """
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def medians(repeats: int, *measures: Callable[[], float]) -> list[float]:
    """The median of each measure, all of them taken in turn so that they meet the same load.

    >>> medians(3, lambda: 1.0, lambda: 2.0)
    [1.0, 2.0]
    """
    rounds = [[measure() for measure in measures] for _ in range(repeats)]
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


def row(
    case: str,
    *,
    ours: float,
    peers: Mapping[str, float],
    unit: str,
    limit: float | None = None,
    **also: Any,
) -> dict[str, Any]:
    r"""One case, where less is better: :math:`ratio = \min(peers) / ours`, above 1 if ours is best.

    Args:
        case: what was measured.
        ours: our time.
        peers: theirs, by name; or ``{"bar": ...}``, what ours must stay under.
        unit: of all of them.
        limit: what the hardware allows at best; ``share`` is how much of that is reached, 1 at most.
        also: columns of this benchmark alone.

    >>> made = row("step", ours=20.0, peers={"torch": 30.0, "other": 25.0}, limit=10.0, unit="ms")
    >>> made["ratio"], made["share"]
    (1.25, 0.5)
    """
    made = {"case": case, "ours": ours, "peers": dict(peers), "ratio": min(peers.values()) / ours}
    if limit is not None:
        made |= {"limit": limit, "share": limit / ours}
    return {**made, "unit": unit, **also}


def report(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Print a table with one line a row and one column a peer, and write the rows to ``file`` as JSON.

    >>> from tempfile import mkdtemp
    >>> report([row("step", ours=20.0, peers={"torch": 25.0}, unit="ms")], Path(mkdtemp()) / "step.json")
    case  ours  torch  ratio  unit
    step    20     25   1.25    ms
    """
    lines = [_with_peers(case) for case in rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    table = [names, *([_cell(line.get(name, "")) for name in names] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *others in table:
        aligned = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *aligned]))
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _with_peers(case: Mapping[str, Any]) -> dict[str, Any]:
    """The row with a column for each peer in the place of ``peers``."""
    return {
        name: value
        for key, column in case.items()
        for name, value in (column.items() if key == "peers" else [(key, column)])
    }


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)

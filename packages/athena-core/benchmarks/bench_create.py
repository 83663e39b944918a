"""Time `athena_core.create` against calling the class itself. The bar: at most 5 us more.

python bench_create.py [--repeats 30] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import timeit
from pathlib import Path

import athena_core
from athena_core import Component, default_host, hookimpl

CALLS = 20_000
BAR = 5.0


class Part:
    """A small class with options, as components are."""

    def __init__(self, width: int, *, lr: float = 1e-3, beta: float = 0.9) -> None:
        self.options = width, lr, beta


@hookimpl
def athena_components() -> list[Component]:
    return [Component("part", "plain", f"{__name__}:Part", "A part")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, default=Path("bench_create.json"))
    options = parser.parse_args()
    default_host().register(sys.modules[__name__], "bench-create")
    cases = {
        "one argument": (lambda: athena_core.create("part", "plain", 8), lambda: Part(8)),
        "three arguments": (
            lambda: athena_core.create("part", "plain", 8, lr=1e-2, beta=0.5),
            lambda: Part(8, lr=1e-2, beta=0.5),
        ),
        "qualified name": (lambda: athena_core.create("part", "bench-create/plain", 8), lambda: Part(8)),
    }
    rows = []
    print(f"{'case':20}{'ours us':>10}{'class us':>10}{'more us':>10}{'bar us':>10}")
    for case, (create, call) in cases.items():
        if create().options != call().options:
            raise SystemExit(f"{case}: create and the class built different objects")
        ours, peer = [], []
        for _ in range(options.repeats):  # in turn, so that both meet the same load
            ours.append(timeit.timeit(create, number=CALLS) / CALLS * 1e6)
            peer.append(timeit.timeit(call, number=CALLS) / CALLS * 1e6)
        mine, theirs = statistics.median(ours), statistics.median(peer)
        row = {
            "case": case,
            "ours": mine,
            "class": theirs,
            "ratio": theirs / mine,
            "more": mine - theirs,
            "bar": BAR,
        }
        rows.append(row)
        print(f"{case:20}{mine:10.3f}{theirs:10.3f}{mine - theirs:10.3f}{BAR:10.1f}")
    options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

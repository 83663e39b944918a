"""Time `athena_core.create` against calling the class itself. The bar: at most 5 us more.

python bench_create.py [--repeats 30] [--json FILE]
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable
from functools import partial

import athena_core
from athena_core import Component, default_host, hookimpl
from athena_core.testing.bench import medians, parser, report, row

CALLS = 20_000
BAR = 5.0


class Part:
    """A small class with options, as components are."""

    def __init__(self, width: int, *, lr: float = 1e-3, beta: float = 0.9) -> None:
        self.options = width, lr, beta


@hookimpl
def athena_components() -> list[Component]:
    return [Component("part", "plain", f"{__name__}:Part", "A part")]


def microseconds(function: Callable[[], Part]) -> float:
    return timeit.timeit(function, number=CALLS) / CALLS * 1e6


def main() -> None:
    options = parser(__doc__, repeats=30).parse_args()
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
    for case, (create, call) in cases.items():
        if create().options != call().options:
            raise SystemExit(f"{case}: create and the class built different objects")
        ours, peer = medians(options.repeats, partial(microseconds, create), partial(microseconds, call))
        also = {"create": ours, "class": peer}
        rows.append(row(case, ours=ours - peer, peers={"bar": BAR}, unit="us more", **also))
    report(rows, options.json)


if __name__ == "__main__":
    main()

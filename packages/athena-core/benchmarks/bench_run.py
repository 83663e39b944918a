"""Time what a run adds to the bare loop: logging, progress, checkpoints. The bar: 2 % of wall time.

    python bench_run.py [--repeats 20] [--json FILE] [--folder FOLDER]

The rate is one log line a step of 20 ms and one checkpoint a minute, fsync included, of a model with 4
million parameters and its AdamW state. Blocks of steps with `Run.steps` and `Run.log` alternate with bare
ones. What a block adds is the wall time between its steps, and, as if it delayed them in full, the
processor time of the bar's thread; unlike the difference of the blocks' own times, which is shown beside
it, this can be told from the noise of other work on the machine. A checkpoint is the time between two
steps when each writes one. The two shares, of 20 ms and of 60 s, add up.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from athena_core import Run
from athena_core.testing.bench import parser, report, row

STEP_SECONDS = 0.020
CHECKPOINT_SECONDS = 60.0
N_STEPS = 50
BAR = 2.0  # per cent
Step = Callable[[], torch.Tensor]


def busy_step() -> torch.Tensor:
    """Wait for 20 ms of the clock: what a run adds in the foreground shows without noise."""
    end = time.perf_counter() + STEP_SECONDS
    while time.perf_counter() < end:
        pass
    return torch.tensor(0.5)


def torch_step() -> Step:
    """About 20 ms of torch's work on this machine."""
    weight = torch.randn(512, 512) / 512**0.5

    def seconds(n_products: int) -> float:
        begun = time.perf_counter()
        work(n_products)
        return time.perf_counter() - begun

    def work(n_products: int) -> torch.Tensor:
        value = weight
        for _ in range(n_products):
            value = torch.tanh(weight @ value)
        return value.mean()

    one = statistics.median(seconds(20) for _ in range(20)) / 20
    return lambda: work(round(STEP_SECONDS / one))


@contextmanager
def terminal() -> Iterator[Console]:
    """A console that draws the live bar, as into a terminal of 100 columns."""
    with Path(os.devnull).open("w") as sink:
        yield Console(file=sink, force_terminal=True, width=100)


@contextmanager
def plain() -> Iterator[Console]:
    """A console that writes lines, as into a file."""
    with tempfile.TemporaryFile("w") as sink:
        yield Console(file=sink)


def block(step: Step, steps: Iterable[int], log: Callable[..., None] | None) -> tuple[float, float]:
    """Milliseconds a step: the whole, and what is not the step's own work."""
    numbers = iter(steps)
    next(numbers)
    working = 0.0
    others = time.process_time() - time.thread_time()
    begun = time.perf_counter()
    for done, number in enumerate(numbers, start=1):
        started = time.perf_counter()
        loss = step()
        working += time.perf_counter() - started
        if log is not None:
            log(number, loss=loss, lr=1e-3)
        if done == N_STEPS:
            break
    whole = time.perf_counter() - begun
    others = time.process_time() - time.thread_time() - others
    return whole / N_STEPS * 1e3, (whole - working + others) / N_STEPS * 1e3


def logged_block(step: Step, console: Console, folder: Path) -> tuple[float, float]:
    """The same in a run, whose bar shows the metrics; it is far from its end, and from a checkpoint."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as made,
        Run(Path(made) / "run", device="cpu", console=console) as run,
    ):
        return block(step, run.steps(10 * N_STEPS), run.log)


def checkpoint_milliseconds(folder: Path, repeats: int) -> tuple[float, float, float]:
    """A step with a checkpoint and nothing else: median and worst milliseconds, and the file's megabytes."""
    model = torch.nn.Sequential(*(torch.nn.Linear(1000, 1000) for _ in range(4)))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 1000)).sum().backward()
    optimizer.step()
    times = []
    with tempfile.TemporaryDirectory(dir=folder) as made:
        options = {"device": "cpu", "console": Console(quiet=True), "checkpoint_seconds": 0.0}
        with Run(Path(made) / "run", **options) as run:
            before = None
            for step in run.steps(repeats + 1, model=model, optimizer=optimizer):
                if before is not None:
                    times.append((time.perf_counter() - before) * 1e3)
                run.log(step, loss=0.5)
                before = time.perf_counter()
            size = max(path.stat().st_size for path in (run.dir / "checkpoints").iterdir())
    return statistics.median(times), max(times), size / 1e6


def case(name: str, step: Step, console: Console, checkpoints: float, options: Namespace) -> dict[str, Any]:
    """The row of one kind of step and one kind of console; ``checkpoints`` is their share in per cent."""
    rounds = [
        (*logged_block(step, console, options.folder), *block(step, range(N_STEPS + 1), None))
        for _ in range(options.repeats)
    ]
    logged, logged_added, bare, bare_added = map(statistics.median, zip(*rounds, strict=True))
    steps = (logged_added - bare_added) / (STEP_SECONDS * 1e3) * 100
    parts = {"steps %": steps, "checkpoints %": checkpoints}
    blocks = {"logged ms": logged, "bare ms": bare, "difference %": (logged / bare - 1) * 100}
    return row(name, ours=steps + checkpoints, peers={"bar": BAR}, unit="%", **parts, **blocks)


def main() -> None:
    arguments = parser(__doc__, repeats=20)
    arguments.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure (here)")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    checkpoint, worst, megabytes = checkpoint_milliseconds(options.folder, options.repeats)
    print(f"a checkpoint of {megabytes:.0f} MB: {checkpoint:.0f} ms, the worst {worst:.0f} ms")
    share = checkpoint / (CHECKPOINT_SECONDS * 1e3) * 100
    rows = []
    for name, step in (("torch", torch_step()), ("waiting", busy_step)):
        for shown, make in (("live bar", terminal), ("plain lines", plain)):
            with make() as console:
                rows.append(case(f"{name}, {shown}", step, console, share, options))
    report(rows, options.json)


if __name__ == "__main__":
    main()

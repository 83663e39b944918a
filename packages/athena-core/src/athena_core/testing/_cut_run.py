"""A run that is cut at a given step, to test that a recipe goes on from there."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from athena_core._recipe import Recipe
from athena_core._run import Run


class CutRun(Run):
    """A run that is interrupted after step ``cut``, as by Ctrl-C; a second run in its folder resumes it.

    Args:
        dir: the run's folder.
        cut: the step that is logged last; 0 cuts never.
        options: those of `athena_core.Run`.

    >>> import tempfile
    >>> from rich.console import Console
    >>> run = CutRun(tempfile.mkdtemp() + "/run", cut=2, device="cpu", console=Console(quiet=True))
    >>> try:
    ...     with run:
    ...         for step in run.steps(3):
    ...             run.log(step, loss=1 / step)
    ... except KeyboardInterrupt as interrupt:
    ...     print(str(interrupt).partition(";")[0])
    interrupted at step 2
    """

    def __init__(self, dir: str | Path, *, cut: int = 0, **options: Any) -> None:  # noqa: A002  as in Run
        super().__init__(dir, **options)
        self.cut = cut

    def log(self, step: int, **metrics: float | torch.Tensor) -> None:
        """Log as a run does; after step ``cut``, note the signal that the next step boundary obeys."""
        super().log(step, **metrics)
        if step == self.cut:
            self.signal = signal.SIGINT


class Executed(NamedTuple):
    """What a recipe left: its final metrics, the rows of ``metrics.jsonl``, and the text that it printed.

    >>> final, rows, text = Executed({"loss": 1.0}, [{"step": 1, "loss": 1.0}], "loss 1.0")
    """

    final: dict[str, float]
    rows: list[dict[str, Any]]
    text: str


def execute(recipe: Recipe, folder: Path, *, cut: int = 0) -> Executed:
    """Run a recipe on the CPU with seed 3, in a new folder or going on in one.

    Args:
        recipe: with the options to test.
        folder: of the run.
        cut: the step after which it is interrupted, as by `CutRun`; 0: it runs to its end.

    Raises athena_core.Interrupted if it was cut.

    >>> import tempfile
    >>> from dataclasses import dataclass
    >>> @dataclass(kw_only=True)
    ... class Count(Recipe):
    ...     def run(self, run):
    ...         for step in run.steps(self.steps):
    ...             run.log(step, twice=2 * step)
    ...         return {"last": step}
    >>> execute(Count(steps=3), Path(tempfile.mkdtemp()) / "run").final
    {'last': 3}
    """
    console = Console(record=True, width=160, file=io.StringIO())
    with CutRun(folder, cut=cut, device="cpu", seed=3, console=console) as run:
        final = dict(recipe.run(run))
        run.finish(final)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Executed(final, rows, console.export_text())

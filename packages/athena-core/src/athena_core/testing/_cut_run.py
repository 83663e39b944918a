"""A run that is cut at a given step, to test that a recipe goes on from there."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import torch

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

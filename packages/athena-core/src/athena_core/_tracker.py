"""Where a run's metrics go. ``metrics.jsonl`` is the source of truth; other trackers mirror it."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from pathlib import Path


class Tracker(ABC):
    """Base of every tracker (kind ``tracker``), built with the run's folder.

    After a resume the same steps may be logged again from the checkpoint on: a tracker that
    mirrors metrics.jsonl keeps the last value of a step.

    >>> class Printed(Tracker):
    ...     def __init__(self, folder):
    ...         self.folder = folder
    ...
    ...     def log(self, step, metrics):
    ...         print(self.folder.name, step, metrics)
    >>> Printed(Path("runs/fit")).log(1, {"loss": 0.5})
    fit 1 {'loss': 0.5}
    """

    @abstractmethod
    def __init__(self, folder: Path) -> None: ...

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take one step's metrics."""

    def close(self) -> None:  # noqa: B027  most trackers have nothing pending
        """Finish what is pending."""


def finite_or_none(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics as JSON has them: it knows no NaN and no infinity."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


class JsonLines(Tracker):
    """``metrics.jsonl``: one object a line, ``step`` first; a value that is not finite is null.

    Each line is one write, so a killed process leaves whole lines behind it but for the last.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        data = json.dumps({"step": step, **finite_or_none(metrics)}).encode() + b"\n"
        while data:
            data = data[os.write(self._file, data) :]

    def sync(self) -> int:
        """Put the lines on the disk, and return the file's size in bytes."""
        os.fsync(self._file)
        return os.fstat(self._file).st_size

    def truncate(self, size: int) -> None:
        """Drop the lines behind ``size`` bytes: those of steps that are going to be done again."""
        os.ftruncate(self._file, size)

    def last(self) -> dict[str, float]:
        """The metrics of the last line; none where there is no line."""
        with self.path.open("rb") as file:
            metrics = json.loads(next(iter(deque(file, maxlen=1)), b"{}"))
        return {
            name: math.nan if value is None else value for name, value in metrics.items() if name != "step"
        }

    def close(self) -> None:
        os.close(self._file)


class TensorBoard(Tracker):
    """Event files for TensorBoard, in the run's folder (``tensorboard --logdir FOLDER``)."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()

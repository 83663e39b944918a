"""A run: a folder that holds its configuration, metrics, checkpoints and pictures."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from rich.console import Console

from athena_core import _toml
from athena_core._checkpoint import save_checkpoint
from athena_core._device import device as find_device
from athena_core._errors import AthenaError
from athena_core._files import remove_half_written, write_atomically
from athena_core._finite import check_finite, refuse_not_finite
from athena_core._forks import handled_in_children
from athena_core._progress import Bar
from athena_core._registry import load
from athena_core._resume_command import resume_command
from athena_core._rng import rng_state, seed_all, set_rng_state
from athena_core._run_folder import check_configuration, checkpoints, locked, make_folder, newest_checkpoint
from athena_core._tracker import JsonLines, Tracker, finite_or_none

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Item = TypeVar("Item")
KEEP = 2  # checkpoints: the newest, and the one before in case the newest is damaged


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the run; what was done is saved.

    >>> try:
    ...     raise Interrupted(signal.SIGTERM, "interrupted at step 3")
    ... except KeyboardInterrupt as interrupt:
    ...     print(interrupt.signal.name, interrupt)
    SIGTERM interrupted at step 3
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal = number


class Stateful(Protocol):
    """What `Run.steps` saves and restores: modules, optimizers, schedules, samplers."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Run:
    """One run in one folder, new or resumed; usable alone, as a context manager.

    Entering it makes the folder (``config.toml``, ``environment.json``), seeds every global
    generator, and takes Ctrl-C, SIGTERM and SIGHUP: they save at the next step boundary and raise
    `Interrupted`; outside `steps` they raise at once. Leaving it writes ``summary.json``.

    Args:
        dir: the run's folder; if there is one already that is not empty, the run in it is resumed.
        config: the configuration, plain data; on a resume it must equal the one in the folder.
        seed: of the global generators.
        device: a `torch.device` or a request as in `athena_core.device`.
        trackers: names of components of kind ``tracker`` that mirror ``metrics.jsonl``.
        checkpoint_seconds: time between two checkpoints in `steps`.
        group: the folder to name to those who want to resume, if not the run's own: that of all seeds.
        console: where text and progress go.

    Raises AthenaError if the folder cannot be used, holds a run of another configuration, or is in
    use by another process.

    >>> import tempfile
    >>> with Run(Path(tempfile.mkdtemp()) / "fit", device="cpu", console=Console(quiet=True)) as run:
    ...     model = torch.nn.Linear(2, 1)
    ...     for step in run.steps(3, model=model):
    ...         run.log(step, loss=1 / step)
    ...     run.finish({"loss": 1 / 3})
    >>> print((run.dir / "metrics.jsonl").read_text().splitlines()[0])
    {"step": 1, "loss": 1.0}
    """

    def __init__(
        self,
        dir: str | Path,  # noqa: A002  the field's word
        *,
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        trackers: Sequence[str] = (),
        checkpoint_seconds: float = 60.0,
        group: Path | None = None,
        console: Console | None = None,
    ) -> None:
        self.dir = Path(dir)
        self.config = dict(config or {})
        self.seed = seed
        self.device = device if isinstance(device, torch.device) else find_device(device)
        self.signal: int | None = None
        self._tracker_names = trackers
        self._trackers: list[Tracker] = []
        self._checkpoint_seconds = checkpoint_seconds
        self._resume_with = group or self.dir
        self._console = console or Console()
        self._latest: dict[str, float] = {}
        self._saved: dict[str, Any] | None = None  # the checkpoint that this process goes on from
        self._logged = self._logged_before = -1
        self._step = self._total = 0
        self._stepping = self._stepped = self._made = False
        self._stack = ExitStack()
        self._begun = self._saved_at = time.monotonic()
        self._seconds_before = 0.0
        self._final: dict[str, float] | None = None

    # The folder.

    def __enter__(self) -> Run:
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            mirrors = [load("tracker", name) for name in self._tracker_names if name != "jsonl"]
            self.prepare()
            stack.enter_context(locked(self.dir))
            remove_half_written(self.dir)
            self._saved = newest_checkpoint(self.dir, self.config)
            self._metrics = JsonLines(self.dir)
            stack.callback(self._metrics.close)
            self._drop_lines_after_checkpoint()
            self._trackers = [self._metrics]
            for mirror in mirrors:
                self._trackers.append(mirror(self.dir))
                stack.callback(self._trackers[-1].close)
            seed_all(self.seed, self.device)
            self._stack = stack.pop_all()
        self._begun = self._saved_at = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Interrupted):
            outcome: dict[str, Any] = {"status": "interrupted"}
        elif error is not None:
            outcome = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        elif self._final is None and self._step < self._total:
            outcome = {"status": "incomplete", "reason": f"it left the loop before step {self._total}"}
        else:
            final = self._latest if self._final is None else self._final
            outcome = {"status": "complete", "metrics": finite_or_none(final)}
        outcome |= {"step": self._step, "seconds": round(self._seconds(), 3)}
        path = self.dir / "summary.json"
        with self._stack, self._writing(path):
            text = json.dumps(outcome, indent=1)
            write_atomically(path, lambda file: file.write(text.encode()))
        if isinstance(error, AthenaError):
            self.discard_unused()

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Note the final metrics: the run is complete, also if it left the loop of steps early.

        A run that came to its end without it is complete with the metrics logged last.

        Raises TypeError for what is not numbers by name.
        """
        if not isinstance(metrics, Mapping):
            raise TypeError(
                f"`metrics` must be a dictionary of numbers, as `Recipe.run` returns; got {metrics!r}."
            )
        self._final = _numbers(metrics)

    def prepare(self) -> None:
        """Make the folder, with its configuration inside or not at all; or check the one there is."""
        if self.dir.exists() and not _is_empty(self.dir):
            saved = _toml.read(self.dir / "config.toml")
            check_configuration(self.dir, saved, self.config, "config.toml")
        else:
            make_folder(self.dir, self.config, self.device)
            self._made = True

    def discard_unused(self) -> None:
        """Remove a folder that this object made, if nothing was done in it: bad input leaves no trace."""
        if self._made and not self._stepped and self._logged < 0 and not checkpoints(self.dir):
            shutil.rmtree(self.dir, ignore_errors=True)

    def _drop_lines_after_checkpoint(self) -> None:
        """Leave in metrics.jsonl what will not be logged again."""
        kept = 0 if self._saved is None else self._saved["metrics_bytes"]
        if self._metrics.path.stat().st_size < kept:
            raise AthenaError(
                f"{self._metrics.path} is shorter than when the checkpoint was written; "
                "put the whole file back, or start a new run."
            )
        self._metrics.truncate(kept)
        self._latest = self._metrics.last()  # of a run at its end, which logs nothing more, the final ones
        self._logged_before = -1 if self._saved is None else self._saved["logged"]

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AthenaError(
                f"cannot write {path}: {error.strerror}. Earlier checkpoints are whole: make room, then "
                f"{resume_command(self._resume_with)}"
            ) from error

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._begun

    # Signals.

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        taken = [signal.SIGINT, signal.SIGTERM]
        hangup = getattr(signal, "SIGHUP", None)  # a closed terminal's
        if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # as it is under nohup
            taken.append(hangup)
        before = {number: signal.signal(number, self._on_signal) for number in taken}
        try:
            with handled_in_children(before):
                yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        at_once = not self._stepping or self.signal is not None
        self.signal = number  # noted in any case: an exception may be lost in somebody's `__del__`
        if at_once:
            raise self._interrupted(number)

    def _interrupted(self, number: int) -> Interrupted:
        return Interrupted(
            number, f"interrupted at step {self._step}; go on with: {resume_command(self._resume_with)}"
        )

    # Metrics, text and pictures.

    def log(self, step: int, **metrics: float | torch.Tensor) -> None:
        """Append one line to ``metrics.jsonl``: one call a step, steps growing.

        Log what a resumed run would log again bit for bit: losses, not times. A resumed run that comes
        by a step of before the checkpoint once more adds no second line.

        Raises ValueError if ``step`` was logged already, TypeError for a metric that is not a number,
        AthenaError if the disk is full.
        """
        if step <= self._logged:
            raise ValueError(
                f"`step` must grow, one call a step; got {step} after {self._logged}. "
                "Log all of a step's metrics at once."
            )
        self._latest = _numbers(metrics)
        if step > self._logged_before:
            with self._writing(self._metrics.path):
                for tracker in self._trackers:
                    tracker.log(step, self._latest)
        self._logged = step

    def print(self, text: str) -> None:
        """Show text to the user, above a running progress bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def figure(self, name: str, figure: Figure) -> Path:
        """Save a matplotlib figure as ``figures/NAME.png``, and return its path."""
        from athena_core.figures import save

        path = self.dir / "figures" / f"{name}.png"
        with self._writing(path):
            save(figure, path)
        return path

    def progress(
        self, iterable: Iterable[Item], total: int | None = None, *, unit: str = "steps"
    ) -> Iterator[Item]:
        """Iterate with a progress bar."""
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)  # pyright: ignore[reportArgumentType]
        with Bar(self._console, total, unit=unit) as bar:
            for done, item in enumerate(iterable, start=1):
                yield item
                bar.update(done, {})

    # State.

    def steps(
        self, total: int, *, unit: str = "steps", units_per_step: int = 1, **parts: Stateful
    ) -> Iterator[int]:
        """Count the steps 1 to ``total``, resumed where the last checkpoint ends.

        ``parts`` are saved and restored by their ``state_dict``: everything that the steps change.
        A checkpoint is written every ``checkpoint_seconds``, at the end, and when the run is
        interrupted. The bar shows the latest metrics and ``units_per_step`` times the rate.

        Raises AthenaError if the checkpoint has other parts, `NotFinite` rather than save a
        module whose parameters are not finite, `Interrupted`, and RuntimeError if called twice: a
        run has one count of steps.
        """
        if self._stepped:
            raise RuntimeError("`steps` must be called once a run; put all phases into one count of steps.")
        for name, part in parts.items():
            if not hasattr(part, "state_dict") or not hasattr(part, "load_state_dict"):
                raise TypeError(f"`{name}` must have `state_dict` and `load_state_dict`; got {part!r}.")
        self._restore_into(parts)
        self._total = total
        bar = Bar(self._console, total, done=self._step, unit=unit, units_per_step=units_per_step)
        self._stepping = self._stepped = True
        try:
            with bar:
                for step in range(self._step + 1, total + 1):
                    yield step
                    self._step = step
                    bar.update(step, self._latest)
                    overdue = time.monotonic() - self._saved_at >= self._checkpoint_seconds
                    if overdue or step == total or self.signal is not None:
                        self._checkpoint_parts(step, parts)
                    if self.signal is not None:
                        raise self._interrupted(self.signal)
        finally:
            self._stepping = False

    def _restore_into(self, parts: Mapping[str, Stateful]) -> None:
        state = self.restore()
        if state is None:
            return
        if state.keys() != parts.keys():
            raise AthenaError(f"{self.dir}: the checkpoint has {sorted(state)}, the recipe {sorted(parts)}.")
        for name, part in parts.items():
            try:
                part.load_state_dict(state[name])
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                why = " ".join(str(error).split())
                raise AthenaError(f"{self.dir}: the checkpoint's `{name}` does not fit: {why}") from error
        self._saved = None  # frees the memory

    def _checkpoint_parts(self, step: int, parts: Mapping[str, Stateful]) -> None:
        for name, part in parts.items():
            if isinstance(part, torch.nn.Module):
                refuse_not_finite(step, part, name)
        self.checkpoint({name: part.state_dict() for name, part in parts.items()}, step=step)

    def checkpoint(self, state: Mapping[str, Any], *, step: int) -> None:
        """Save ``state`` as that after ``step``, with every generator's state; keeps the last two.

        Raises AthenaError if the disk is full, or ``state`` holds what a checkpoint does not take.
        """
        self._step = step
        path = self.dir / "checkpoints" / f"step-{step:08d}.pt"
        with self._writing(path):
            content = {
                "step": step,
                "state": dict(state),
                "config": self.config,
                "logged": self._logged,
                "metrics_bytes": self._metrics.sync(),
                "seconds": self._seconds(),
                "rng": rng_state(self.device),
            }
            try:
                save_checkpoint(path, content)
            except TypeError as error:
                raise AthenaError(f"cannot save the run's state: {error}") from error
        for old in checkpoints(self.dir)[:-KEEP]:
            old.unlink()
        self._saved_at = time.monotonic()

    def restore(self) -> dict[str, Any] | None:
        """The state saved last, or None in a new run; puts every generator back to it."""
        if self._saved is None:
            return None
        self._step, self._logged = self._saved["step"], self._saved["logged"]
        self._seconds_before = self._saved["seconds"]
        set_rng_state(self._saved["rng"], self.device)
        return self._saved["state"]

    def check_finite(self, step: int, model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
        """Between ``backward`` and the optimizer's step: stop the run if a number is not finite.

        Returns the global norm of the gradients, a scalar. Raises `NotFinite`, naming what was
        not finite first: a parameter, in the order of the model; else a gradient, in the order of
        the backward pass. The optimizer has not stepped yet, so the last checkpoint is good.
        """
        return check_finite(step, model, loss)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
    for name, number in numbers.items():
        if not isinstance(number, (int, float)):
            raise TypeError(f"the metric `{name}` must be a number; got {number!r}. Leave it out.")
    return numbers

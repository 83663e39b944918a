"""A run: a folder that holds its configuration, metrics, checkpoints and pictures."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from athena_core import _toml
from athena_core._checkpoint import load_checkpoint, save_checkpoint
from athena_core._config import differences
from athena_core._device import device as find_device
from athena_core._environment import environment
from athena_core._errors import AthenaError
from athena_core._files import remove_half_written, write_atomically
from athena_core._finite import check_finite, refuse_not_finite
from athena_core._progress import Bar
from athena_core._registry import create
from athena_core._rng import rng_state, seed_all, set_rng_state
from athena_core._tracker import JsonLines, Tracker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Item = TypeVar("Item")
KEEP = 2  # checkpoints: the newest, and the one before in case the newest is damaged


class Interrupted(Exception):  # noqa: N818  it names an event, not a mistake
    """Ctrl-C or SIGTERM ended the run; what was done is saved."""

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
    generator, and takes Ctrl-C and SIGTERM: they save at the next step boundary and raise
    `Interrupted`; outside `steps` they raise at once. Leaving it writes ``summary.json``.

    Args:
        dir: the run's folder; if it exists, the run in it is resumed.
        config: the configuration, plain data; on a resume it must equal the one in the folder.
        seed: of the global generators.
        device: a `torch.device` or a request as in `athena_core.device`.
        trackers: names of components of kind ``tracker`` that mirror ``metrics.jsonl``.
        checkpoint_seconds: time between two checkpoints in `steps`.
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
        console: Console | None = None,
    ) -> None:
        self.dir = Path(dir)
        self.config = dict(config or {})
        self.seed = seed
        self.device = device if isinstance(device, torch.device) else find_device(device)
        self._tracker_names = trackers
        self._trackers: list[Tracker] = []
        self._checkpoint_seconds = checkpoint_seconds
        self._console = console or Console()
        self._latest: dict[str, float] = {}
        self._logged = 0
        self._step = 0
        self._signal: int | None = None
        self._looping = False
        self._stack = ExitStack()
        self._begun = self._saved = time.monotonic()
        self._seconds_before = 0.0
        self._summary: dict[str, Any] = {"status": "failed"}

    # The folder.

    def __enter__(self) -> Run:
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            self.prepare()
            stack.enter_context(self._lock())
            remove_half_written(self.dir)
            self._metrics = JsonLines(self.dir)
            mirrors = [create("tracker", name, self.dir) for name in self._tracker_names if name != "jsonl"]
            self._trackers = [self._metrics, *mirrors]
            for tracker in self._trackers:
                stack.callback(tracker.close)
            seed_all(self.seed, self.device)
            self._stack = stack.pop_all()
        self._begun = self._saved = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if isinstance(error, Interrupted):
                self._summary = {"status": "interrupted"}
            elif error is not None:
                self._summary = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
            self._summary |= {"step": self._step, "seconds": round(self._seconds(), 3)}
            self._write("summary.json", json.dumps(self._summary, indent=1))

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Note the final metrics: the run is complete."""
        self._summary = {"status": "complete", "metrics": _numbers(metrics)}

    def prepare(self) -> None:
        """Make the folder, with its configuration inside or not at all; or check the one there is."""
        if self.dir.exists():
            self._check_configuration(_toml.read(self.dir / "config.toml"), "config.toml")
            return
        try:
            self.dir.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{self.dir.name}-", dir=self.dir.parent))
            try:
                for name in ("checkpoints", "figures"):
                    (temporary / name).mkdir()
                (temporary / "config.toml").write_text(_toml.dumps(self.config), encoding="utf-8")
                text = json.dumps(environment(self.device), indent=1)
                (temporary / "environment.json").write_text(text, encoding="utf-8")
                temporary.chmod(0o755)
                temporary.rename(self.dir)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        except OSError as error:
            raise AthenaError(f"cannot make the run's folder {self.dir}: {error.strerror}.") from error

    def _check_configuration(self, saved: Mapping[str, Any], where: str) -> None:
        if changed := differences(saved, self.config):
            raise AthenaError(
                f"{self.dir} holds a run of another configuration ({where}); changed: {', '.join(changed)}. "
                "Resume it unchanged, or start a new run."
            )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            lock = FileLock(self.dir / ".lock", timeout=0)
            with lock:
                yield
        except Timeout as error:
            raise AthenaError(f"{self.dir} is in use by another process; wait for it, or stop it.") from error

    def _write(self, name: str, text: str) -> None:
        write_atomically(self.dir / name, lambda file: file.write(text.encode()))

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._begun

    # Signals.

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        at_once = not self._looping or self._signal is not None
        self._signal = number  # noted in any case: an exception may be lost in somebody's `__del__`
        if at_once:
            raise Interrupted(number, self._how_to_resume())

    def _how_to_resume(self) -> str:
        return f"interrupted at step {self._step}; go on with: athena run --resume {self.dir}"

    # Metrics, text and pictures.

    def log(self, step: int, **metrics: float | torch.Tensor) -> None:
        """Append one line to ``metrics.jsonl``: one call a step, steps growing.

        Log what a resumed run would log again bit for bit: losses, not times.
        Raises ValueError if ``step`` was logged already.
        """
        if step <= self._logged:
            raise ValueError(
                f"`step` must grow, one call a step; got {step} after {self._logged}. "
                "Log all of a step's metrics at once."
            )
        self._latest = _numbers(metrics)
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
        module whose parameters are not finite, and `Interrupted`.
        """
        saved = self.restore()
        if saved is not None:
            if saved.keys() != parts.keys():
                raise AthenaError(
                    f"{self.dir}: the checkpoint has {sorted(saved)}, the recipe {sorted(parts)}."
                )
            for name, part in parts.items():
                part.load_state_dict(saved[name])
        bar = Bar(self._console, total, done=self._step, unit=unit, units_per_step=units_per_step)
        self._looping = True
        try:
            with bar:
                for step in range(self._step + 1, total + 1):
                    yield step
                    self._step = step
                    bar.update(step, self._latest)
                    overdue = time.monotonic() - self._saved >= self._checkpoint_seconds
                    if overdue or step == total or self._signal is not None:
                        for name, part in parts.items():
                            if isinstance(part, torch.nn.Module):
                                refuse_not_finite(step, part, name)
                        self.checkpoint({name: part.state_dict() for name, part in parts.items()}, step=step)
                    if self._signal is not None:
                        raise Interrupted(self._signal, self._how_to_resume())
        finally:
            self._looping = False

    def checkpoint(self, state: Mapping[str, Any], *, step: int) -> None:
        """Save ``state`` as that after ``step``, with every generator's state; keeps the last two."""
        path = self.dir / "checkpoints" / f"step-{step:08d}.pt"
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
        except OSError as error:
            raise AthenaError(
                f"cannot write {path}: {error.strerror}. Earlier checkpoints are whole: make room, then "
                f"athena run --resume {self.dir}"
            ) from error
        for old in self._checkpoints()[:-KEEP]:
            old.unlink()
        self._saved = time.monotonic()

    def restore(self) -> dict[str, Any] | None:
        """The state last saved, or None; puts every generator and ``metrics.jsonl`` back to it."""
        checkpoints = self._checkpoints()
        if not checkpoints:
            self._metrics.truncate(0)
            return None
        content = load_checkpoint(checkpoints[-1])
        if not isinstance(content, dict) or not content.keys() >= {"step", "state", "config", "rng"}:
            raise AthenaError(f"checkpoint {checkpoints[-1]} is not one of a run.")
        self._check_configuration(content["config"], checkpoints[-1].name)
        self._metrics.truncate(content["metrics_bytes"])
        self._step, self._logged = content["step"], content["logged"]
        self._seconds_before = content["seconds"]
        set_rng_state(content["rng"], self.device)
        return content["state"]

    def _checkpoints(self) -> list[Path]:
        return sorted((self.dir / "checkpoints").glob("step-*.pt"))

    def check_finite(self, step: int, model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
        """Between ``backward`` and the optimizer's step: stop the run if a number is not finite.

        Returns the global norm of the gradients, a scalar. Raises `NotFinite`, naming what was
        not finite first: a parameter, in the order of the model; else a gradient, in the order of
        the backward pass. The optimizer has not stepped yet, so the last checkpoint is good.
        """
        return check_finite(step, model, loss)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}

"""A progress bar: the latest metrics, the rate, the time left. Plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PLAIN_SECONDS = 10.0
LIVE_SECONDS = 0.2


class Bar:
    """One bar over ``total`` steps, of which ``done`` were done before this process."""

    def __init__(
        self,
        console: Console,
        total: int | None,
        *,
        done: int = 0,
        unit: str = "steps",
        units_per_step: int = 1,
    ) -> None:
        self._console = console
        self._total = total
        self._first = self._done = done
        self._unit = unit
        self._units_per_step = units_per_step
        self._begun = self._shown = time.monotonic()
        self._live: Progress | None = None

    def __enter__(self) -> Bar:
        if self._console.is_terminal:
            columns = (
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.description}", markup=False),
            )
            self._live = Progress(*columns, console=self._console, auto_refresh=False)
            self._live.add_task("starting", total=self._total, completed=self._done)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """Show the state after step ``done``; between two showings this costs one clock read."""
        self._done = done
        now = time.monotonic()
        last = done == self._total
        if now - self._shown < (PLAIN_SECONDS if self._live is None else LIVE_SECONDS) and not last:
            return
        self._shown = now
        text = self._text(metrics, now - self._begun)
        if self._live is None:
            of = f"/{self._total}" if self._total else ""
            self._console.print(f"step {done}{of}  {text}", highlight=False, markup=False, soft_wrap=True)
        else:
            self._live.update(self._live.task_ids[0], completed=done, description=text, refresh=True)

    def _text(self, metrics: Mapping[str, float], seconds: float) -> str:
        here = self._done - self._first
        rate = here / max(seconds, 1e-9)
        units = rate * self._units_per_step
        words = [f"{name} {value:.4g}" for name, value in list(metrics.items())[:3]]
        words.append(f"{units:,.0f} {self._unit}/s" if units >= 100 else f"{units:.3g} {self._unit}/s")
        if self._total is not None and here:
            left = round((self._total - self._done) / rate)
            words.append(f"{left // 60}:{left % 60:02d} left")
        return "  ".join(words)

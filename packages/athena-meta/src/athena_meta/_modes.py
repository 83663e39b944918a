"""Whether tasks share one vmap, in which chunks, or come one by one: told, or chosen by measurement."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple

import torch

from athena_meta._episodes import Episodes
from athena_meta._random_state import random_state, repeated
from athena_meta._saved_bytes import peak_saved_bytes
from athena_meta._whole import whole

Mode = Literal["auto", "vmap", "loop"]


class Way(NamedTuple):
    """How tasks are computed: ``mode`` is "vmap" or "loop", with at most ``chunk`` tasks at once."""

    mode: str
    chunk: int

    def __str__(self) -> str:
        return self.mode if self.mode == "loop" else f"{self.mode} of {self.chunk}"


class Chosen(NamedTuple):
    """The way that was taken, and the seconds of each that was tried, if there was a choice."""

    way: Way
    seconds: dict[Way, float]

    def __str__(self) -> str:
        times = ", ".join(f"{way}: {1e3 * seconds:.3g} ms" for way, seconds in self.seconds.items())
        return f"{self.way} ({times})" if times else str(self.way)


Run = Callable[[Way, Episodes], Any]


class Modes:
    """Chooses a :class:`Way` once for each kind of work and shape of episodes.

    Raises ValueError for an unknown mode, a chunk below one task, chunks of a loop, two limits at once, and,
    when it is used, a budget that does not hold one task.
    """

    def __init__(self, mode: Mode, *, chunk_size: int | None, memory_budget: int | None) -> None:
        if mode not in ("auto", "vmap", "loop"):
            raise ValueError(f"`mode` must be 'auto', 'vmap' or 'loop'; got {mode!r}.")
        if chunk_size is not None and memory_budget is not None:
            raise ValueError("`chunk_size` and `memory_budget` must not both be given; got both. Pass one.")
        if mode == "loop" and (chunk_size is not None or memory_budget is not None):
            raise ValueError("`mode` must be 'auto' or 'vmap' for chunks; got 'loop', with one task each.")
        if chunk_size is not None and whole("chunk_size", chunk_size) < 1:
            raise ValueError(f"`chunk_size` must be at least 1; got {chunk_size}.")
        self.mode, self.chunk_size, self.memory_budget = mode, chunk_size, memory_budget
        #: What was chosen last.
        self.chosen: Chosen | None = None
        self._ways: dict[Hashable, Chosen] = {}
        self._warned = False

    def choose(self, kind: Hashable, episodes: Episodes, run: Run) -> Way:
        """The way for such work; ``run`` does it, and is timed on the first call with such shapes."""
        shapes = tuple((part.shape, part.dtype, part.device) for part in episodes[:4])
        if (kind, shapes) not in self._ways:
            with repeated(random_state(episodes.support_x.device), episodes.support_x.device):
                self._ways[kind, shapes] = self._choice(episodes, run)
        self.chosen = self._ways[kind, shapes]
        return self.chosen.way

    def _choice(self, episodes: Episodes, run: Run) -> Chosen:
        loop = Way("loop", 1)
        if self.mode == "loop" or (self.mode == "auto" and episodes.tasks == 1):
            return Chosen(loop, {})
        stacked = Way("vmap", self._chunk(episodes, run))
        if self.mode == "vmap":
            return Chosen(stacked, {})
        try:
            run(stacked, episodes)
        except Exception as error:  # noqa: BLE001  whatever a network does that vmap cannot take
            run(loop, episodes)  # its own error, if it is not vmap's
            self._warn(error)
            return Chosen(loop, {})
        return _measured((stacked, loop), episodes, run)

    def _chunk(self, episodes: Episodes, run: Run) -> int:
        if self.memory_budget is None:
            return min(self.chunk_size or episodes.tasks, episodes.tasks)
        # A copy: a view would count with the storage of all tasks.
        one = Episodes(*(part[:1].clone() for part in episodes[:4]))
        needed = peak_saved_bytes(lambda: run(Way("loop", 1), one))
        if needed > self.memory_budget:
            raise ValueError(
                f"`memory_budget` must hold one task, which keeps {needed} bytes; got {self.memory_budget}. "
                "Raise it, or pass first_order=True or checkpoint_steps=True."
            )
        return min(self.memory_budget // max(needed, 1), episodes.tasks)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            cause = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"tasks come one by one, as mode='loop' has them, for vmap cannot take this network: {cause}",
                stacklevel=5,
            )
        self._warned = True


def _measured(ways: tuple[Way, Way], episodes: Episodes, run: Run) -> Chosen:
    """The faster way, each by the better of two runs in turn after one that warms up."""
    seconds = dict.fromkeys(ways, float("inf"))
    run(ways[1], episodes)  # the first has run already
    for _ in range(2):
        for way in ways:
            start = _now(episodes)
            run(way, episodes)
            seconds[way] = min(seconds[way], _now(episodes) - start)
    return Chosen(min(ways, key=seconds.__getitem__), seconds)


def _now(episodes: Episodes) -> float:
    if episodes.support_x.device.type != "cpu":
        torch.accelerator.synchronize(episodes.support_x.device)
    return time.perf_counter()

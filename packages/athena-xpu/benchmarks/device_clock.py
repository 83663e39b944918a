"""What a device does in how long: by its own events, never by a clock that did not wait for it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch

from athena_xpu import above_peak

_WARM_UP = 3  # compiles, tunes, and fills the allocator's cache


class Clock:
    """Times and memory of calls on one device; on the CPU, which is there to try the script, wall time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.module: Any = None if device.type == "cpu" else torch.get_device_module(device)

    def medians(self, repeats: int, functions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Median seconds of each, called in turn. Calls are queued, so that none waits for the host."""
        for function in functions.values():
            for _ in range(_WARM_UP if self.module else 0):
                function()
        self.synchronize()
        rounds = [[self._timed(function) for function in functions.values()] for _ in range(repeats)]
        self.synchronize()
        columns = zip(functions, zip(*rounds, strict=True), strict=True)
        return {name: statistics.median(seconds() for seconds in column) for name, column in columns}

    def _timed(self, function: Callable[[], object]) -> Callable[[], float]:
        if self.module is None:
            start = time.perf_counter()
            function()
            took = time.perf_counter() - start
            return lambda: took
        begin, end = (self.module.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        return lambda: begin.elapsed_time(end) / 1e3

    def synchronize(self) -> None:
        if self.module:
            self.module.synchronize()

    def peak_bytes(self, function: Callable[[], object]) -> int:
        """How far memory rises above what is held before the call; 0 on the CPU, which does not tell."""
        if self.module is None:
            function()
            return 0
        self.forget()
        self.module.reset_peak_memory_stats()
        before = self.module.memory_allocated()
        function()
        self.synchronize()
        return self.module.max_memory_allocated() - before

    def free_bytes(self) -> int:
        """What can be allocated; without a device that tells, what the script's smallest sizes take."""
        with suppress(AttributeError, RuntimeError):  # integrated GPUs of Intel do not tell
            self.forget()
            return self.module.mem_get_info()[0]
        return 2**31

    def forget(self) -> None:
        if self.module:
            self.module.empty_cache()

    def copy_bandwidth(self, count: int, repeats: int) -> float:
        """Bytes a second, read and written, of copying so many."""
        source = torch.ones(count, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        seconds = self.medians(repeats, {"copy": lambda: target.copy_(source)})["copy"]
        peak = self._bandwidth()
        if peak and (faults := above_peak(seconds, moved=2 * count, bandwidth=peak)):
            raise RuntimeError(faults[0])
        return 2 * count / seconds

    def peak_bandwidth(self, copied: float) -> float:
        """Above it a time is none: by the memory's clock where that is told, else a quarter over the copy."""
        return self._bandwidth() or 1.25 * copied

    def _bandwidth(self) -> float | None:
        if self.device.type != "cuda":
            return None
        found = torch.cuda.get_device_properties(self.device)
        clock, width = (getattr(found, f"memory_{name}", 0) for name in ("clock_rate", "bus_width"))
        return 2 * clock * 1e3 * width / 8 or None  # two transfers a cycle

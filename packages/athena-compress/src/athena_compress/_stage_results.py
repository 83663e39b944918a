"""What a model costs and is worth after each stage: measured, as a table, and drawn."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from athena_compress._bars import Panel, bar_panels
from athena_compress._int8_layer import Int8Layer
from athena_compress._modes import evaluating
from athena_compress._tables import size, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPEATS = 30


class Result(NamedTuple):
    """A stage's model: its score, bytes on disk, milliseconds for one input and for a batch, peak bytes.

    >>> Result("dense", 0.98, 1_000_000, 2.0, 9.0, 3_000_000).stage
    'dense'
    """

    stage: str
    score: float
    disk_bytes: int
    one_ms: float
    batch_ms: float
    peak_bytes: int


def measure(stage: str, model: nn.Module, score: float, folder: Path, inputs: Tensor) -> Result:
    """Measure a saved model on a batch of inputs: medians of 30 passes, and the most memory of one."""
    disk = sum(path.stat().st_size for path in folder.iterdir())
    with evaluating(model), torch.inference_mode():
        one, batch = milliseconds(model, inputs[:1]), milliseconds(model, inputs)
        peak = peak_bytes(model, inputs)
    return Result(stage, score, disk, one, batch, peak)


def milliseconds(model: nn.Module, inputs: Tensor) -> float:
    """Median time of a pass."""
    times = []
    for _ in range(REPEATS + 3):
        start = time.perf_counter()
        model(inputs)
        if inputs.device.type != "cpu":
            torch.accelerator.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return median(times[3:])


def peak_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Bytes of the weights, and the most that a pass allocates at once beside them.

    >>> peak_bytes(nn.Linear(1000, 10, bias=False), torch.zeros(1, 1000)) >= 40_000
    True
    """
    tensors = list(_tensors(model))  # all alive, so that their addresses differ
    held = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's start and stop are no news
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        model(inputs)
    level = peak = 0
    for event in sorted(profiler.events() or (), key=lambda event: event.time_range.end):
        level += event.self_cpu_memory_usage + event.self_device_memory_usage
        peak = max(peak, level)
    return sum(held.values()) + peak


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers; int8 weights twice, as they are laid out for a kernel too."""
    yield from chain(model.parameters(), model.buffers())
    yield from (layer.weight_q.clone() for layer in model.modules() if isinstance(layer, Int8Layer))


def comparison(results: Sequence[Result], score: str) -> str:
    """The results in columns, each with its ratio to the first.

    >>> print(comparison([Result("dense", 0.5, 4096, 2.0, 4.0, 8192)], "accuracy"))
    stage  accuracy     size on disk        one input          a batch   memory at most
    dense    0.5000  4.0 KiB (1.00x)  2.00 ms (1.00x)  4.00 ms (1.00x)  8.0 KiB (1.00x)
    """
    first = results[0]
    rows = [
        (
            one.stage,
            f"{one.score:.4f}",
            f"{size(one.disk_bytes)} ({one.disk_bytes / first.disk_bytes:.2f}x)",
            f"{one.one_ms:.2f} ms ({one.one_ms / first.one_ms:.2f}x)",
            f"{one.batch_ms:.2f} ms ({one.batch_ms / first.batch_ms:.2f}x)",
            f"{size(one.peak_bytes)} ({one.peak_bytes / first.peak_bytes:.2f}x)",
        )
        for one in results
    ]
    return table(
        ("stage", score, "size on disk", "one input", "a batch", "memory at most"), rows, words=("stage",)
    )


def trade_off(results: Sequence[Result], score: str) -> Figure:
    """Draw the score over the size on disk, a dot a stage; a thin line goes from each to the next.

    >>> one, other = Result("dense", 0.9, 4096, 2.0, 4.0, 8192), Result("pruned", 0.8, 2048, 1.0, 2.0, 4096)
    >>> len(trade_off([one, other], "accuracy").axes[0].lines)
    3
    """
    from athena_core.figures import learning_curves

    sizes = [one.disk_bytes / 1024 for one in results]
    # named in the legend, since stages of equal size would write over one another
    figure = learning_curves(
        {
            f"{one.stage}: {one.one_ms:.2g} ms an input": ([kib], [one.score])
            for one, kib in zip(results, sizes, strict=True)
        },
        x_label="size on disk (KiB)",
        y_label=score.replace("_", " "),
        title="What compressing costs, stage by stage",
    )
    axes = figure.axes[0]
    for dot in axes.lines:
        dot.set_markersize(8)
    axes.plot(sizes, [one.score for one in results], color="0.7", linewidth=1.0, zorder=1)
    axes.set_xlim(0, 1.08 * max(sizes))
    axes.margins(y=0.15)
    return figure


def bars(results: Sequence[Result], score: str) -> Figure:
    """Draw score, size, time and memory of each stage side by side."""
    columns = {
        score.replace("_", " "): ([one.score for one in results], "{:.4f}"),
        "size on disk (KiB)": ([one.disk_bytes / 1024 for one in results], "{:,.1f}"),
        "time of one input (ms)": ([one.one_ms for one in results], "{:.2f}"),
        "time of a batch (ms)": ([one.batch_ms for one in results], "{:.2f}"),
        "memory at most (KiB)": ([one.peak_bytes / 1024 for one in results], "{:,.0f}"),
    }
    panels = [
        Panel(label, values, [form.format(value) for value in values])
        for label, (values, form) in columns.items()
    ]
    return bar_panels([one.stage for one in results], panels, title="Each stage's model, measured")

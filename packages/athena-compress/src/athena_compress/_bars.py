"""Horizontal bars, a row for each layer, in panels side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from athena_core import AthenaError
from athena_core.figures import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#555555"
_PALE = "#D9D9D9"
_LONGEST = 44  # characters of a name


@dataclass(frozen=True)
class Panel:
    """One quantity of every row: its bars, what stands at their ends, and paler bars to compare with."""

    label: str
    values: Sequence[float | None]
    texts: Sequence[str]
    before: Sequence[float | None] | None = None
    colour: str = PALETTE[0]
    line: float | None = None  # a vertical one
    line_label: str = ""


def bar_panels(names: Sequence[str], panels: Sequence[Panel], *, title: str) -> Figure:
    """Draw rows from the top down.

    Raises AthenaError if matplotlib is not installed, ValueError for no rows.
    """
    if not names:
        raise ValueError("a figure must show at least one layer; got none. The model holds no parameters.")
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ModuleNotFoundError as error:
        raise AthenaError("Figures need matplotlib: run `pip install 'athena-compress[plot]'`.") from error
    labels = [name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :] for name in names]
    width = 1.0 + 0.075 * max(map(len, labels)) + (4.6 if len(panels) == 1 else 2.9 * len(panels))
    with_line = any(panel.line is not None or panel.before is not None for panel in panels)
    height = 1.3 + 0.27 * len(names) + 0.3 * with_line
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(width, height), dpi=150, layout=layout, facecolor="white")
    # squeeze would return one axes in place of an array of them
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(row, panels, strict=True):
        _draw(axes, panel)
    row[0].set_yticks(range(len(labels)), labels=labels)
    row[0].set_ylim(len(labels) - 0.4, -0.6)
    figure.suptitle(title, x=0.02, ha="left", fontsize="large")
    if with_line:
        figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize="small")
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    rows = range(len(panel.values))
    finite = [0.0 if value is None or not math.isfinite(value) else value for value in panel.values]
    paler = [0.0 if value is None else value for value in panel.before or ()]
    largest = max([*map(abs, finite), *paler, panel.line or 0.0]) or 1.0
    if paler:
        axes.barh(rows, paler, height=0.72, color=_PALE, label="before")
    axes.barh(
        rows, finite, height=0.5 if paler else 0.66, color=panel.colour, label="after" if paler else None
    )
    if panel.line is not None:
        axes.axvline(panel.line, color=_GREY, linestyle="dashed", linewidth=1.2, label=panel.line_label)
    if min(finite) < 0:
        axes.axvline(0.0, color=_GREY, linewidth=0.8)
    for index, text in enumerate(panel.texts):
        end = max(finite[index], paler[index] if paler else 0.0, 0.0)
        # on white, where a dashed line passes behind it
        axes.text(
            end + 0.015 * largest,
            index,
            text,
            va="center",
            fontsize="x-small",
            color=_GREY,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
    axes.set_xlim(min(0.0, 1.05 * min(finite)), 1.3 * largest)  # room for what stands at the ends
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GREY)
    axes.tick_params(axis="x", color=_GREY, labelcolor=_GREY, labelsize="small")
    axes.tick_params(axis="y", length=0, labelsize="small")
    axes.grid(axis="x", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(panel.label, fontsize="small")

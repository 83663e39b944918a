"""Pictures of results: learning curves with bands, and intervals side by side.

Each function returns a `matplotlib.figure.Figure` that pyplot does not know, so nothing global changes
and nothing has to be closed. matplotlib is the extra ``plot``, imported when a picture is made; without
it these functions raise `AthenaError` with the command that installs it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from athena_core._errors import AthenaError
from athena_core._files import write_atomically
from athena_core.stats import Band, Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

# Okabe and Ito 2008, "Color Universal Design": told apart with every kind of colour vision. Its yellow is
# left out, being too pale for a line on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("solid", "dashed", "dotted", "dashdot")  # the next style once the colours are used up
_GREY = "#555555"


def learning_curves(
    curves: Mapping[str, tuple[ArrayLike, Band | ArrayLike]],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Draw curves over steps, each with its band where it has one.

    Args:
        curves: by label, the steps ``(points,)`` and either a `Band` or a bare curve ``(points,)``.
        x_label: what the steps are, with their unit.
        y_label: what the curves show, with its unit.
        levels: by label, values to compare with, drawn as horizontal lines.

    Raises ValueError if there is no curve, or steps and a curve differ in length.

    >>> curves = {"lamb": ([1, 2, 3], [3.0, 2.0, 1.5])}
    >>> learning_curves(curves, x_label="step", y_label="loss (nats)").axes[0].get_ylabel()
    'loss (nats)'
    """
    labels = [*curves, *(levels or {})]
    columns = max(1, 76 // (max(map(len, labels), default=0) + 8))  # of the legend, as the labels allow
    rows = -(-len(labels) // columns) if len(labels) > 1 else 0
    figure, axes = _figure(curves, height=4.0 + 0.22 * rows, title=title)
    for index, (label, (steps, curve)) in enumerate(curves.items()):
        x = np.asarray(steps)
        estimate = np.asarray(curve.estimate if isinstance(curve, Band) else curve)
        if x.shape != estimate.shape or x.ndim != 1:
            raise ValueError(
                f"`{label}` must have one value a step; got shape {estimate.shape} for {x.shape}."
            )
        colour = PALETTE[index % len(PALETTE)]
        style = _DASHES[index // len(PALETTE) % len(_DASHES)]
        marker = "o" if len(x) == 1 else None  # a line of one point is invisible
        width = 1.8 if len(x) < 200 else 1.0  # a line of many points is noisy
        axes.plot(x, estimate, color=colour, linestyle=style, linewidth=width, marker=marker, label=label)
        if isinstance(curve, Band):
            axes.fill_between(x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
    for index, (label, level) in enumerate((levels or {}).items()):
        style = _DASHES[1 + index % (len(_DASHES) - 1)]
        axes.axhline(level, color=_GREY, linestyle=style, linewidth=1.2, label=label)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.margins(x=0.01)
    axes.xaxis.set_major_formatter("{x:,.10g}")
    if rows:  # below the axes, where it hides no curve
        figure.legend(loc="outside lower left", ncols=columns, frameon=False)
    return figure


def intervals(results: Mapping[str, Interval], *, x_label: str, title: str = "") -> Figure:
    """Draw one interval a row, the first on top, each with its estimate as a dot.

    Args:
        results: by label, an interval, such as `athena_core.stats.bootstrap_interval` returns.
        x_label: what was measured, with its unit.

    Raises ValueError if there is no interval.

    >>> figure = intervals({"lamb": Interval(1.7, 1.6, 1.9)}, x_label="held-out bits per byte")
    >>> [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    ['lamb']
    """
    longest = max(map(len, results), default=0)
    figure, axes = _figure(
        results, width=6.4 + 0.08 * max(0, longest - 20), height=1.3 + 0.42 * len(results), title=title
    )
    for row, result in enumerate(results.values()):
        colour = PALETTE[row % len(PALETTE)]
        axes.plot(
            [result.low, result.high],
            [row, row],
            color=colour,
            linewidth=7,
            alpha=0.35,
            solid_capstyle="butt",
        )
        axes.plot(result.estimate, row, color=colour, marker="o", markersize=7)
    axes.set_yticks(range(len(results)), labels=list(results))
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel=x_label)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises ValueError if ``path`` does not end in ``.png``, OSError if it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "loss.png")
    ...     save(learning_curves({"a": ([1, 2], [2.0, 1.0])}, x_label="step", y_label="loss (nats)"), path)
    ...     path.read_bytes()[1:4]
    b'PNG'
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"`path` must end in `.png`; got {str(path)!r}.")
    picture = io.BytesIO()  # drawn whole first: a PNG encoder cannot write to a half-full disk and go on
    figure.savefig(picture, format="png")
    write_atomically(path, lambda file: file.write(picture.getbuffer()))


def _figure(
    parts: Mapping[str, object], *, height: float, title: str, width: float = 6.4
) -> tuple[Figure, Axes]:
    """An empty figure, its size in inches, with one pair of axes."""
    if not parts:
        raise ValueError("a figure must show at least one result; got none.")
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ModuleNotFoundError as error:
        raise AthenaError("Figures need matplotlib: run `pip install 'athena-core[plot]'`.") from error
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(width, height), dpi=150, layout=layout, facecolor="white")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(color=_GREY, labelcolor=_GREY)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", fontsize="large", pad=12)
    return figure, axes

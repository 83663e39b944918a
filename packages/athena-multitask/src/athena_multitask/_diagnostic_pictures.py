"""Pictures of how tasks get on: cosines of their gradients, conflicts and weights over steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from athena_core import AthenaError
from athena_core.figures import learning_curves
from athena_multitask._diagnostics import TaskHistory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUMBERED = 12  # tasks, up to which cells have their numbers written in
_UNKNOWN = "#B0B0B0"


def plot_cosines(history: TaskHistory, *, title: str = "") -> Figure:
    """Draw the mean cosine between the gradients of each two tasks: blue is agreement, red is conflict.

    Pairs that no step knows are grey.

    Raises ValueError if no cosine was recorded; AthenaError without matplotlib.

    >>> import torch
    >>> from athena_multitask import Balanced
    >>> history = TaskHistory(["a", "b"])
    >>> history.record(0, balanced=Balanced(("a", "b"), torch.eye(2), None, ()))
    >>> [label.get_text() for label in plot_cosines(history).axes[0].get_yticklabels()]
    ['a', 'b']
    """
    cosines = history.mean_cosines()
    if np.isnan(cosines).all():
        raise ValueError(
            "`history` must hold a cosine; got none. Record with `balanced=`, what `balance` returns."
        )
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise AthenaError("Pictures need matplotlib: run `pip install 'athena-multitask[plot]'`.") from error
    count = len(history.tasks)
    side = min(9.0, 2.6 + max(0.45 * count, 0.08 * max(map(len, history.tasks)) + 1.2))
    figure = Figure(figsize=(side + 1.0, side), dpi=150, layout="constrained", facecolor="white")
    axes = figure.add_subplot(facecolor=_UNKNOWN)
    picture = axes.imshow(np.ma.masked_invalid(cosines), cmap="RdBu", vmin=-1, vmax=1)
    figure.colorbar(picture, ax=axes, label="mean cosine of gradients", shrink=0.8)
    small = "small" if count <= _NUMBERED else 5
    axes.set_xticks(range(count), labels=list(history.tasks), rotation=90, fontsize=small)
    axes.set_yticks(range(count), labels=list(history.tasks), fontsize=small)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if count <= _NUMBERED:
        for (row, column), cosine in np.ndenumerate(cosines):
            colour = "white" if abs(cosine) > 0.6 else "black"
            text = "" if np.isnan(cosine) else f"{cosine:.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize="x-small", color=colour)
    axes.set_title(title, loc="left", fontsize="medium")
    return figure


def plot_conflicts(history: TaskHistory, *, title: str = "") -> Figure:
    """Draw the share of pairs of tasks in conflict over steps.

    Raises ValueError if no cosine of two tasks was recorded; AthenaError without matplotlib.

    >>> import torch
    >>> from athena_multitask import Balanced
    >>> history = TaskHistory(["a", "b"])
    >>> history.record(0, balanced=Balanced(("a", "b"), torch.eye(2), None, ()))
    >>> plot_conflicts(history).axes[0].get_ylabel()
    'share of pairs in conflict'
    """
    rates = history.conflict_rates
    known = ~np.isnan(rates)
    if not known.any():
        raise ValueError(
            "`history` must hold a cosine of two tasks; got none. Record with `balanced=`, what `balance` "
            "returns."
        )
    steps, rates = _thinned(history.steps[known], rates[known])
    figure = learning_curves(
        {"conflict rate": (steps, rates)},
        x_label="step",
        y_label="share of pairs in conflict",
        title=title,
    )
    figure.axes[0].set_ylim(-0.03, 1.03)
    return figure


def plot_weights(history: TaskHistory, *, title: str = "") -> Figure:
    """Draw the weight of each task over steps; steps that do not know it are left out.

    Raises ValueError if no weight was recorded; AthenaError without matplotlib.

    >>> history = TaskHistory(["a", "b"])
    >>> for step in range(3):
    ...     history.record(step, weights=[0.5, 0.5])
    >>> plot_weights(history).axes[0].get_ylabel()
    'weight'
    """
    curves = {}
    for name, weights in zip(history.tasks, history.weights.T, strict=True):
        known = ~np.isnan(weights)
        if known.any():
            curves[name] = _thinned(history.steps[known], weights[known])
    if not curves:
        raise ValueError("`history` must hold a weight; got none. Record with `weights=`.")
    return learning_curves(curves, x_label="step", y_label="weight", title=title)


def _thinned(
    steps: NDArray[np.int64], values: NDArray[np.float64], points: int = 200
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means over equal numbers of records, of at most so many."""
    parts = min(points, len(steps))
    means = [[part.mean() for part in np.array_split(array, parts)] for array in (steps, values)]
    return np.array(means[0]), np.array(means[1])

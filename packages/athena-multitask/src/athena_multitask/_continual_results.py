"""Accuracies of tasks learned one after another, as they come, and their picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from athena_core import AthenaError
from athena_multitask._continual_metrics import (
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class ContinualResults:
    """The accuracy on each task, column, after training on each, row; NaN where it was not tested.

    Args:
        tasks: their names, in the order of training.

    Shape: `accuracies` is ``(T, T)``, `untrained` ``(T,)``.

    Raises ValueError for no task or one twice, an unknown one, or a state of other tasks.

    Source: Lopez-Paz and Ranzato 2017, arXiv:1706.08840, section 2. Departs from it: no.

    >>> results = ContinualResults(["pens", "cups"])
    >>> results.record("pens", {"pens": 0.9})
    >>> results.record("cups", {"pens": 0.7, "cups": 0.8})
    >>> {name: round(value, 3) for name, value in results.metrics().items()}
    {'average_accuracy': 0.75, 'backward_transfer': -0.2, 'forgetting': 0.2}
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"`tasks` must be different names, at least one; got {list(tasks)}. Name each.")
        self.accuracies = np.full((len(self.tasks),) * 2, np.nan)
        self.untrained = np.full(len(self.tasks), np.nan)

    def record(self, after: str | None, accuracies: Mapping[str, float]) -> None:
        """Note accuracies by task, after training on one; or with None, before any."""
        row = self.untrained if after is None else self.accuracies[self._place(after)]
        for name, accuracy in accuracies.items():
            row[self._place(name)] = accuracy

    def metrics(self) -> dict[str, float]:
        """Average accuracy; of several tasks backward transfer, forgetting, and forward transfer if known.

        Raises ValueError if an accuracy is missing.
        """
        found = {"average_accuracy": average_accuracy(self.accuracies)}
        if len(self.tasks) > 1:
            found["backward_transfer"] = backward_transfer(self.accuracies)
            found["forgetting"] = forgetting(self.accuracies)
            if not np.isnan([*self.accuracies.diagonal(1), *self.untrained[1:]]).any():
                found["forward_transfer"] = forward_transfer(self.accuracies, self.untrained)
        return found

    def state_dict(self) -> dict[str, Any]:
        return {
            "tasks": list(self.tasks),
            "accuracies": torch.from_numpy(self.accuracies.copy()),
            "untrained": torch.from_numpy(self.untrained.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if tuple(state["tasks"]) != self.tasks:
            raise ValueError(
                f"`state` must be of the tasks {list(self.tasks)}; got {list(state['tasks'])}. Name these."
            )
        self.accuracies = np.array(state["accuracies"].numpy())
        self.untrained = np.array(state["untrained"].numpy())

    def _place(self, name: str) -> int:
        if name not in self.tasks:
            raise ValueError(f"a task must be one of {list(self.tasks)}; got {name!r}. Name one of them.")
        return self.tasks.index(name)


def plot_accuracies(results: Mapping[str, ContinualResults], *, title: str = "") -> Figure:
    """Draw the matrix of accuracies of each method, beside each other.

    Args:
        results: by the method's name, of the same tasks.

    Raises ValueError for no result; AthenaError without matplotlib.

    >>> results = ContinualResults(["pens", "cups"])
    >>> results.record("pens", {"pens": 0.9})
    >>> [axes.get_title() for axes in plot_accuracies({"plain": results}).axes if axes.get_title()]
    ['plain']
    """
    if not results:
        raise ValueError("`results` must hold those of a method; got none. Train one.")
    names = next(iter(results.values())).tasks
    matrices = {method: result.accuracies for method, result in results.items()}
    return heat_maps(
        matrices,
        rows=names,
        columns=names,
        labels=("after training on", "tested on", "accuracy"),
        title=title,
    )


def heat_maps(
    matrices: Mapping[str, NDArray[np.float64]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    labels: tuple[str, str, str],
    title: str = "",
) -> Figure:
    """Draw matrices of shares in [0, 1] beside each other, up to three a line; NaN is left white.

    Args:
        labels: of the rows, the columns, and the colours.

    >>> figure = heat_maps({"a": np.eye(2)}, rows="xy", columns="xy", labels=("from", "to", "share"))
    >>> figure.axes[0].get_ylabel()
    'from'
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise AthenaError("Pictures need matplotlib: run `pip install 'athena-multitask[plot]'`.") from error
    across = 2 if len(matrices) in (2, 4) else min(3, len(matrices))
    down = -(-len(matrices) // across)
    width, height = min(6.0, 1.0 + 0.55 * len(columns)), min(6.0, 1.2 + 0.5 * len(rows))
    size = (width * across + 1.9, height * down + 0.6)
    figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    for place, (axes, (name, matrix)) in enumerate(zip(grid, matrices.items(), strict=False)):
        _heat_map(axes, matrix)
        axes.set_title(name, fontsize="medium")
        # texts are slow to draw: names stand at the left and below the lowest alone
        left, lowest = place % across == 0, place + across >= len(matrices)
        axes.set_xticks(range(len(columns)), labels=columns if lowest else [""] * len(columns))
        axes.set_yticks(range(len(rows)), labels=rows if left else [""] * len(rows))
        axes.tick_params(length=0, labelsize="small")
        axes.tick_params(axis="x", rotation=90)
        axes.set_xlabel(labels[1] if lowest else "")
        axes.set_ylabel(labels[0] if left else "")
    for axes in grid[len(matrices) :]:
        axes.set_visible(False)
    figure.colorbar(grid[0].images[0], ax=grid, label=labels[2], shrink=0.8)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    return figure


def _heat_map(axes: Axes, matrix: NDArray[np.float64]) -> None:
    axes.imshow(np.ma.masked_invalid(matrix), cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(matrix):
        if not np.isnan(value):
            colour = "white" if value < 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize="x-small", color=colour)

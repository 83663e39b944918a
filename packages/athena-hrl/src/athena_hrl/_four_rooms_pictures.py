"""Pictures of what options do in four rooms: where each leads, and where it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from athena_core import AthenaError
from athena_core.figures import PALETTE
from athena_hrl._four_rooms import FourRooms
from athena_hrl._grid import MOVES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_WALL = "#404040"


def plot_options(
    rooms: FourRooms, pi: Array, beta: Array, q: Array, *, goal: int | None = None, title: str = ""
) -> Figure:
    """Draw each option's policy as arrows over its termination, and which option is best where.

    An arrow is the mean direction: its length is how sure the policy is. The star is the goal.

    Args:
        rooms: the environment.
        pi: policies ``(S, O, A)``.
        beta: terminations ``(S, O)``.
        q: values of options ``(S, O)``.
        goal: a state.

    Raises ValueError for arrays of other shapes; AthenaError without matplotlib.

    >>> rooms = FourRooms()
    >>> figure = plot_options(rooms, np.full((104, 2, 4), 0.25), np.full((104, 2), 0.5), np.zeros((104, 2)))
    >>> [axes.get_title() for axes in figure.axes[:3]]
    ['option 0', 'option 1', 'best option']
    """
    states, options = beta.shape
    if states != len(rooms.cells) or pi.shape != (states, options, 4) or q.shape != beta.shape:
        raise ValueError(
            f"`pi`, `beta` and `q` must have the shapes ({len(rooms.cells)}, O, 4), ({len(rooms.cells)}, O) "
            f"twice; got {pi.shape}, {beta.shape} and {q.shape}."
        )
    try:
        from matplotlib.colors import ListedColormap
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise AthenaError("Pictures need matplotlib: run `pip install 'athena-hrl[plot]'`.") from error
    columns = min(options + 1, 5)
    rows = -(-(options + 1) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.8, 2.9 * rows), dpi=150, layout="constrained")
    grid: Any = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[options + 1 :]:
        axes.set_axis_off()
    pictures = []
    for option, axes in enumerate(grid[:options]):
        pictures.append(_paint(axes, rooms, beta[:, option], cmap="Blues", limits=(0, 1)))
        _arrows(axes, rooms, pi[:, option])
        axes.set_title(f"option {option}", fontsize="medium")
    colours = ListedColormap([PALETTE[option % len(PALETTE)] for option in range(options)])
    best = _paint(
        axes := grid[options], rooms, q.argmax(1).astype(float), cmap=colours, limits=(-0.5, options - 0.5)
    )
    axes.set_title("best option", fontsize="medium")
    if goal is not None:
        row, column = rooms.cells[goal]
        for axes in grid[: options + 1]:
            axes.plot(column, row, marker="*", color="#E69F00", markersize=9, markeredgecolor="black")
    figure.colorbar(pictures[0], ax=list(grid[:options]), label="chance to end", shrink=0.8)
    figure.colorbar(best, ax=[grid[options]], ticks=range(options), shrink=0.8)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize="large")
    return figure


def _paint(axes: Axes, rooms: FourRooms, values: Array, *, cmap: Any, limits: tuple[float, float]) -> Any:
    """A value of each cell, walls dark."""
    picture = np.full(rooms.free.shape, np.nan)
    picture[tuple(rooms.cells.T)] = values
    axes.set_facecolor(_WALL)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes.imshow(picture, cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest")


def _arrows(axes: Axes, rooms: FourRooms, pi: Array) -> None:
    down, right = (pi @ MOVES).T
    rows, columns = rooms.cells.T
    axes.quiver(
        columns, rows, right, down, angles="xy", scale_units="xy", scale=1.2, pivot="middle", width=0.008
    )

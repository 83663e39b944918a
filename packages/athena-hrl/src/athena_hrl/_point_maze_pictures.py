"""Pictures of point mazes: ways through them, and the subgoals on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from athena_core import AthenaError
from athena_core.figures import PALETTE
from athena_hrl._point_maze import PointMaze

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_ways(
    maze: PointMaze,
    ways: Sequence[ArrayLike],
    *,
    subgoals: Sequence[ArrayLike] = (),
    title: str = "",
) -> Figure:
    """Draw ways through a maze, each with the places that were its subgoals.

    Args:
        maze: the rules, of which walls, start and goal are drawn.
        ways: points ``(steps, 2)`` each.
        subgoals: for each way, in its colour, places ``(n, 2)``; one outside the picture is left out.
        title: of the figure.

    Raises AthenaError without matplotlib.

    >>> figure = plot_ways(PointMaze(), [[[1.5, 1.5], [2.5, 1.5]]], subgoals=[[[2.5, 1.5]]])
    >>> [float(end) for end in figure.axes[0].get_xlim()]
    [0.0, 5.0]
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise AthenaError("Pictures need matplotlib: run `pip install 'athena-hrl[plot]'`.") from error
    height, width = maze.free.shape
    figure = Figure(figsize=(5.0, 0.8 + 4.4 * height / width), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(
        maze.free, cmap="gray", vmin=-1.5, vmax=1, extent=(0, width, height, 0), interpolation="nearest"
    )
    for index, way in enumerate(ways):
        colour = PALETTE[index % len(PALETTE)]
        axes.plot(*np.asarray(way, dtype=float).T, color=colour, linewidth=1.4, marker=".", markersize=3)
        for place in np.asarray(subgoals[index] if index < len(subgoals) else np.zeros((0, 2))):
            axes.plot(*place, color=colour, marker="x", markersize=7, linestyle="none")
    axes.plot(*maze.start_point, color="black", marker="s", markersize=7)
    x, y = maze.far_goal
    turn = np.linspace(0, 2 * np.pi, 60)
    axes.fill(x + maze.radius * np.cos(turn), y + maze.radius * np.sin(turn), color="#E69F00", alpha=0.6)
    axes.set(xlim=(0, width), ylim=(height, 0), xlabel="x", ylabel="y")
    axes.set_title(title, loc="left", fontsize="medium")
    return figure

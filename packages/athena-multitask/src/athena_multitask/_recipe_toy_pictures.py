"""Pictures of the recipe `multitask-toy`: trajectories over contours, and the plane of losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from athena_core import AthenaError
from athena_core.figures import PALETTE
from athena_multitask._toy import pareto_front, pareto_set, toy_losses

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
_FRONT = "#7F7F7F"


def trajectories_figure(paths: Mapping[str, Tensor], *, scale: float) -> Figure:
    """Draw a panel a method: paths from all starts, over contours of the mean loss.

    Args:
        paths: by method, ``(starts, records, 2)``.
        scale: of the first loss.

    >>> len(trajectories_figure({"mgda": torch.zeros(5, 2, 2)}, scale=0.1).axes)
    1
    """
    x, y = torch.meshgrid(torch.linspace(-11, 11, 221), torch.linspace(-11, 11, 221), indexing="xy")
    grid = torch.stack([x, y], dim=-1)
    mean = (toy_losses(grid) * torch.tensor([scale, 1.0])).mean(-1)

    def draw(axes: Axes, path: Tensor) -> None:
        axes.contour(x, y, mean, levels=24, cmap="Greys_r", linewidths=0.5, alpha=0.8)
        axes.plot(*pareto_set().T, color=_FRONT, linewidth=4, alpha=0.6, zorder=2)
        _draw_paths(axes, path)
        axes.set(xlim=(-11, 11), ylim=(-11, 11), box_aspect=1)

    note = "contours: the mean loss; grey: the Pareto set; circles: starts; stars: ends"
    return _panels(paths, draw, x_label=r"$\theta_1$", y_label=r"$\theta_2$", note=note)


def front_figure(paths: Mapping[str, Tensor]) -> Figure:
    """Draw a panel a method: paths in the plane of the losses, with the Pareto front.

    >>> len(front_figure({"mgda": torch.zeros(5, 2, 2), "nash-mtl": torch.zeros(5, 2, 2)}).axes)
    2
    """

    def draw(axes: Axes, path: Tensor) -> None:
        axes.plot(*pareto_front().T, color=_FRONT, linewidth=4, alpha=0.6, zorder=2)
        _draw_paths(axes, toy_losses(path))
        axes.set(xlim=(-22, 16), ylim=(-22, 16), box_aspect=1)

    note = "grey: the Pareto front; circles: starts; stars: ends; without the scale of the first loss"
    return _panels(paths, draw, x_label="first loss", y_label="second loss", note=note)


def _draw_paths(axes: Axes, paths: Tensor) -> None:
    for number, path in enumerate(paths.tolist()):
        colour = PALETTE[number % len(PALETTE)]
        axes.plot(*zip(*path, strict=True), color=colour, linewidth=1.3, zorder=3)
        axes.plot(*path[0], color=colour, marker="o", markersize=5, zorder=4)
        axes.plot(*path[-1], color=colour, marker="*", markersize=10, markeredgecolor="black", zorder=5)


def _panels(
    paths: Mapping[str, Tensor],
    draw: Callable[[Axes, Tensor], None],
    *,
    x_label: str,
    y_label: str,
    note: str,
) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise AthenaError("Pictures need matplotlib: run `pip install 'athena-multitask[plot]'`.") from error
    columns = min(COLUMNS, len(paths))
    rows = math.ceil(len(paths) / columns)
    size = 2.6 * columns + 0.4, 2.75 * rows + 0.5
    figure = Figure(figsize=size, dpi=110, layout="constrained", facecolor="white")
    cells = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in cells[len(paths) :]:
        axes.remove()
    for axes, (name, path) in zip(cells, paths.items(), strict=False):
        draw(axes, path)
        axes.set_title(name, loc="left", fontsize="medium")
        axes.tick_params(labelsize="x-small", length=2)
    figure.supxlabel(f"{x_label}\n{note}", fontsize="small")
    figure.supylabel(y_label, fontsize="small")
    return figure

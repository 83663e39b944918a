"""The picture of the recipe `sinusoid`: fits of regression tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from athena_core.figures import PALETTE
from athena_meta._gradient_learner import GradientLearner
from athena_meta._pictures import blank_figure
from athena_meta._regression_tasks import RegressionTasks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def fits_figure(
    learner: GradientLearner,
    source: RegressionTasks,
    *,
    tasks: int,
    steps: Sequence[int],
    title: str,
) -> Figure:
    """A few tasks side by side: the function, the points to adapt to, and the fit after so many steps."""
    episodes, parameters = source.draw(0, tasks), source.parameters(0, tasks)
    x = torch.linspace(-5, 5, 201, dtype=source.dtype)[:, None]
    targets = source.target(x.expand(tasks, -1, -1), parameters)
    home = next(learner.parameters()).device
    figure = blank_figure(3.2 * tasks, 3.4)
    figure.suptitle(title, x=0.01, ha="left", fontsize="large")
    panels = np.ravel(figure.subplots(1, tasks, sharey=True))
    for task, axes in enumerate(panels):
        axes.plot(x[:, 0], targets[task, :, 0], color="0.3", linewidth=3, alpha=0.35, label="function")
        support_x, support_y = episodes.support_x[task].to(home), episodes.support_y[task].to(home)
        for index, step in enumerate(steps):
            with torch.no_grad():
                fit = learner.adapt(support_x, support_y, steps=step)(x.to(home)).cpu()
            label = "before adapting" if step == 0 else f"after {step} step{'s' * (step > 1)}"
            style = "dashed" if step == 0 else "solid"
            axes.plot(x[:, 0], fit[:, 0], color=PALETTE[index], linewidth=1.6, linestyle=style, label=label)
        given = (episodes.support_x[task, :, 0], episodes.support_y[task, :, 0])
        axes.plot(*given, "o", color="black", markersize=5, label="points", zorder=5)
        axes.set(xlabel="x")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("y")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), frameon=False)
    return figure

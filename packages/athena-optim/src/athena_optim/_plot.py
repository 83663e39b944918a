"""A picture of a schedule, for ``athena info schedule/NAME --plot``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch.optim.lr_scheduler import LRScheduler

from athena_core.figures import learning_curves
from athena_optim._laws import EXAMPLE_STEPS, example_schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_schedule(target: Callable[..., LRScheduler]) -> Figure:
    """Draw the share of the full learning rate over the steps of an example run.

    ``target`` is a component of kind ``schedule``. Needs matplotlib (the extra ``plot``).
    """
    schedule = example_schedule(target)
    shares = []
    for _ in range(EXAMPLE_STEPS + 1):
        shares.append(float(schedule.get_last_lr()[0]))
        schedule.optimizer.step()
        schedule.step()
    title = target.__name__.replace("_", " ")
    curves = {title: (range(EXAMPLE_STEPS + 1), shares)}
    return learning_curves(curves, x_label="step", y_label="share of the full learning rate", title=title)

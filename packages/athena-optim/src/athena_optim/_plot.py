"""A picture of a schedule, for ``athena info schedule/NAME --plot``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch.optim.lr_scheduler import LRScheduler

from athena_optim._laws import EXAMPLE_STEPS, example_schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_schedule(target: Callable[..., LRScheduler]) -> Figure:
    """Draw the share of the full learning rate over the steps of an example run.

    ``target`` is a component of kind ``schedule``. Needs matplotlib (the extra ``plot``).
    """
    from matplotlib.figure import Figure

    schedule = example_schedule(target)
    shares = []
    for _ in range(EXAMPLE_STEPS + 1):
        shares.append(float(schedule.get_last_lr()[0]))
        schedule.optimizer.step()
        schedule.step()
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(shares)
    axes.set(xlabel="step", ylabel="share of the full learning rate", title=target.__name__.replace("_", " "))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    return figure

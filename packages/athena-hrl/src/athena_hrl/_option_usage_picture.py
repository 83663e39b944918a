"""A picture of how options are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from athena_core import AthenaError
from athena_core.figures import PALETTE
from athena_hrl._option_usage import OptionUsage

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_option_usage(usage: OptionUsage, *, title: str = "") -> Figure:
    """Draw each option's share of the steps, and the mean and the spread of its durations.

    Lines beside the mean durations reach from the 10 % shortest to the 90 % shortest. The title says whether
    the options have collapsed.

    Raises ValueError if nothing was counted; AthenaError without matplotlib.

    >>> usage = OptionUsage(2)
    >>> for option in (0, 0, 1, 0):
    ...     usage.add([option], ended=[option == 1])
    >>> plot_option_usage(usage).axes[0].get_ylabel()
    'share of the steps'
    """
    if not usage.steps.any():
        raise ValueError("`usage` must have counted a step; got none. Let the options act first.")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise AthenaError("Pictures need matplotlib: run `pip install 'athena-hrl[plot]'`.") from error
    figure = Figure(figsize=(6.4, 3.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    options = np.arange(usage.n_options)
    left.bar(options, usage.shares, color=PALETTE[0])
    left.set(xlabel="option", ylabel="share of the steps", ylim=(0, 1))
    means = usage.mean_durations
    spread = np.array([_spread(usage, option) for option in range(usage.n_options)])
    right.plot(options, means, "o", color=PALETTE[1])
    right.vlines(options, spread[:, 0], spread[:, 1], color=PALETTE[1], alpha=0.5)
    right.set(xlabel="option", ylabel="steps of an execution", ylim=(0, 1.1 * max(1.0, spread.max())))
    for axes in (left, right):
        axes.set_xticks(options)
        axes.spines[["top", "right"]].set_visible(False)
    found: dict[Any, str] = {None: "not collapsed"}
    verdict = found.get(usage.collapse, f"collapsed to {usage.collapse}")
    numbers = f"effective options {usage.effective_options:.2f}, median duration {usage.median_duration:g}"
    figure.suptitle(f"{title}\n{numbers}: {verdict}".strip(), x=0.02, ha="left", fontsize="medium")
    return figure


def _spread(usage: OptionUsage, option: int) -> tuple[float, float]:
    durations = usage.durations(option)
    if not len(durations):
        return 0.0, 0.0
    low, high = np.quantile(durations, (0.1, 0.9))
    return float(low), float(high)

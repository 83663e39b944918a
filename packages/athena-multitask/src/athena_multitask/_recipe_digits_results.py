"""What the recipe `multitask-digits` found: the relative change, tables and pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from athena_core import figures
from athena_core.stats import Interval, bootstrap_interval
from athena_multitask._recipe_digits_data import LOWER_IS_BETTER, TASKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
ALONE = "single-task"
RELATIVE = "relative change"
_RNG = 0  # of the bootstrap: the same results always have the same intervals


def relative_change(scores: Array, alone: Array, lower_is_better: Sequence[bool]) -> Array:
    r"""The mean over tasks of how much better each is than trained alone, in percent, seed by seed.

    .. math:: \Delta = \frac{100}{T} \sum_t (-1)^{l_t} \frac{M_t - B_t}{B_t}

    Args:
        scores, alone: of the same seeds, :math:`M` and :math:`B`.
        lower_is_better: by task, :math:`l`.

    Shape: ``(seeds, tasks), (seeds, tasks) -> (seeds,)``.

    Source: Maninis, Radosavovic and Kokkinos 2019, arXiv:1904.08918. Departs from it: no.

    >>> relative_change(np.array([[0.99, 0.5]]), np.array([[0.9, 1.0]]), [False, True])
    array([30.])
    """
    signs = np.where(lower_is_better, -1, 1)
    return 100 * (signs * (scores - alone) / alone).mean(1)


def summarised(scores: Mapping[str, Array]) -> dict[str, dict[str, Interval]]:
    """By method, the mean over seeds of each score and of the relative change, with its interval.

    Args:
        scores: by method, ``(seeds, tasks)``, single-task training among them.

    >>> found = summarised({ALONE: np.ones((2, 3)), "static": np.full((2, 3), [1.0, 1.0, 0.7])})
    >>> round(found["static"][RELATIVE].estimate, 6)
    10.0
    """
    lower = [task in LOWER_IS_BETTER for task in TASKS]
    results = {}
    for name, values in scores.items():
        columns: dict[str, Array] = {task: values[:, number] for number, task in enumerate(TASKS)}
        columns[RELATIVE] = relative_change(values, scores[ALONE], lower)
        results[name] = {
            column: bootstrap_interval(one, rng=_RNG, statistic=np.mean) for column, one in columns.items()
        }
    return results


def results_table(results: Mapping[str, Mapping[str, Interval]], *, seeds: int) -> str:
    """A row a method in Markdown, accuracies in percent.

    >>> one = {task: Interval(0.5, 0.25, 0.75) for task in (*TASKS, RELATIVE)}
    >>> print(results_table({"static": one}, seeds=2))
    means of 2 seeds [95 % intervals], held out
    | method | class (%) | parity (%) | magnitude (MSE) | relative change (%) |
    |---|---|---|---|---|
    | static | 50.00 [25.00, 75.00] | 50.00 [25.00, 75.00] | 0.500 [0.250, 0.750] | +0.50 [+0.25, +0.75] |
    """
    lines = [
        f"means of {seeds} seeds [95 % intervals], held out",
        "| method | class (%) | parity (%) | magnitude (MSE) | relative change (%) |",
        "|---" * 5 + "|",
    ]
    shapes = ((100, ".2f"), (100, ".2f"), (1, ".3f"), (1, "+.2f"))
    for name, row in results.items():
        cells = [
            "{} [{}, {}]".format(*(format(factor * number, shape) for number in interval))
            for interval, (factor, shape) in zip(row.values(), shapes, strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def results_csv(scores: Mapping[str, Array], seeds: Sequence[int]) -> str:
    """A row a method and seed, with every score.

    >>> print(results_csv({"static": np.array([[0.5, 0.75, 2.0]])}, [4]), end="")
    method,seed,class,parity,magnitude
    static,4,0.5,0.75,2.0
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "seed", *TASKS])
    for name, values in scores.items():
        for seed, row in zip(seeds, values.tolist(), strict=True):
            writer.writerow([name, seed, *row])
    return text.getvalue()


def scores_figure(results: Mapping[str, Mapping[str, Interval]], *, seeds: int) -> Figure:
    """Draw the relative change, and the score of each task: a row a method, with its interval.

    >>> one = {task: Interval(0.5, 0.25, 0.75) for task in (*TASKS, RELATIVE)}
    >>> len(scores_figure({"static": one}, seeds=2).axes)
    4
    """
    from matplotlib.figure import Figure

    labels = {
        RELATIVE: "relative change (%)",
        "class": "class, accuracy",
        "parity": "parity, accuracy",
        "magnitude": "magnitude, MSE",
    }
    figure = Figure(figsize=(13, 1.4 + 0.3 * len(results)), dpi=120, layout="constrained", facecolor="white")
    for axes, (column, label) in zip(
        figure.subplots(1, len(labels), sharey=True), labels.items(), strict=True
    ):
        for number, (name, row) in enumerate(results.items()):
            colour = "black" if name == ALONE else figures.PALETTE[0]
            estimate, low, high = row[column]
            axes.plot(
                [low, high], [number, number], color=colour, linewidth=6, alpha=0.35, solid_capstyle="butt"
            )
            axes.plot(estimate, number, color=colour, marker="o", markersize=5)
        axes.axvline(results[ALONE][column].estimate if ALONE in results else 0, color="0.6", linewidth=0.8)
        axes.set_xlabel(label, fontsize="small")
        axes.set_yticks(range(len(results)), labels=list(results), fontsize="small")
        axes.set_ylim(len(results) - 0.4, -0.6)
        axes.tick_params(axis="x", labelsize="x-small")
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="0.92", linewidth=0.8)
    figure.suptitle(f"held-out scores, means of {seeds} seeds with 95 % intervals", x=0.01, ha="left")
    return figure

"""What the recipe `optimizers` found: the chosen learning rates, a table, and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from athena_core import figures, stats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RNG = 0  # of the bootstrap: the same results always have the same intervals


class Best(NamedTuple):
    """An optimizer at one batch size with the learning rate that validation chose.

    ``at_edge`` says that it is an end of the grid, ``accuracy (repeats,)`` is on the test part, and
    ``losses (repeats, points)`` are on the validation part.
    """

    lr: float
    at_edge: bool
    accuracy: stats.Array
    losses: stats.Array


Found = Mapping[str, Mapping[int, Best]]  # by optimizer and batch size


def choose(metrics: Path, optimizers: Sequence[str]) -> dict[str, dict[int, Best]]:
    """Read a whole search from ``metrics.jsonl``, and choose each learning rate by validation.

    The highest mean accuracy over all repeats wins; where it is shared, the lowest mean loss.
    """
    runs: dict[tuple[int, int], dict[float, dict[int, list[dict[str, float]]]]] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rates = runs.setdefault((row["optimizer"], row["batch"]), {})
        rates.setdefault(row["lr"], {}).setdefault(row["repeat"], []).append(row)
    found: dict[str, dict[int, Best]] = {name: {} for name in optimizers}
    for (optimizer, batch), rates in sorted(runs.items()):
        candidates = {lr: list(repeats.values()) for lr, repeats in rates.items()}
        lr = max(candidates, key=lambda lr: _validation(candidates[lr]))
        accuracy = np.array([rows[-1]["test_accuracy"] for rows in candidates[lr]])
        losses = np.array([[row.get("validation_loss", np.inf) for row in rows] for rows in candidates[lr]])
        at_edge = len(rates) > 1 and lr in (min(rates), max(rates))
        found[optimizers[optimizer]][batch] = Best(lr, at_edge, accuracy, losses)
    return found


def _validation(repeats: Sequence[Sequence[Mapping[str, float]]]) -> tuple[float, float]:
    accuracy = np.mean([rows[-1]["validation_accuracy"] for rows in repeats])
    loss = np.mean([rows[-1].get("validation_loss", np.inf) for rows in repeats])
    return float(accuracy), -float(loss)


def summary(found: Found) -> dict[str, float]:
    """The test accuracy of each optimizer at the smallest and at the largest batch size."""
    return {
        f"{name}_batch_{batch}": float(stats.interquartile_mean(best[batch].accuracy))
        for name, best in found.items()
        for batch in dict.fromkeys((min(best), max(best)))
    }


def table(found: Found) -> str:
    """Test accuracy and chosen learning rate of each optimizer and batch size; ``*`` at an end of the grid.

    >>> best = Best(0.01, True, np.array([0.5, 0.7]), np.ones((2, 3)))
    >>> print(table({"lamb": {32: best}}))
    optimizer            batch 32
    lamb           60.0 %  0.01 *
    """
    wide = max(map(len, ("optimizer", *found))) + 2
    sizes = next(iter(found.values()))
    lines = ["optimizer".ljust(wide) + "".join(f"batch {size}".rjust(18) for size in sizes)]
    for name, best in found.items():
        cells = (
            f"{100 * stats.interquartile_mean(b.accuracy):.1f} %  {b.lr:g}" + (" *" if b.at_edge else "  ")
            for b in best.values()
        )
        lines.append(name.ljust(wide) + "".join(cell.rjust(18) for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def differences(found: Found) -> str:
    """How each optimizer differs from the first at the largest batch size, seed by seed.

    >>> bests = [Best(0.01, False, np.array(a), np.ones((2, 3))) for a in ([0.5, 0.7], [0.6, 0.8])]
    >>> print(differences({"adamw": {32: bests[0]}, "lamb": {32: bests[1]}}))
    test accuracy at batch 32, minus adamw's (95 % intervals):
      lamb  +10.0 [+10.0, +10.0] points
    """
    first, *others = found
    batch = max(found[first])
    lines = [f"test accuracy at batch {batch}, minus {first}'s (95 % intervals):"]
    for name in others:
        accuracies = (found[one][batch].accuracy for one in (name, first))
        estimate, low, high = (100 * x for x in stats.paired_difference(*accuracies, rng=_RNG))
        lines.append(f"  {name}  {estimate:+.1f} [{low:+.1f}, {high:+.1f}] points")
    return "\n".join(lines)


def accuracy_figure(found: Found) -> Figure:
    """Draw the test accuracy over the batch size, a line and a band for each optimizer."""
    curves = {}
    for name, best in found.items():
        accuracy = 100 * np.stack([b.accuracy for b in best.values()], axis=1)
        curves[name] = (list(best), _band(accuracy))
    repeats = len(next(iter(next(iter(found.values())).values())).accuracy)
    figure = figures.learning_curves(
        curves,
        x_label="batch size, the number of epochs being the same",
        y_label="test accuracy (%)",
        title=f"Accuracy against batch size, {_over(repeats)}",
    )
    axes = figure.axes[0]
    sizes = list(next(iter(found.values())))
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    for line in axes.lines:
        line.set_marker("o")
    return figure


def loss_figure(found: Found, *, batch: int, epochs: float) -> Figure:
    """Draw the validation loss of each optimizer over the epochs, at its chosen learning rate.

    A loss that is not finite ends the curve; only seeds whose losses are all finite have a band.
    """
    curves = {}
    for name, best in found.items():
        lr, _, _, losses = best[batch]
        points = epochs * np.arange(1, losses.shape[1] + 1) / losses.shape[1]
        curve = _band(losses) if np.isfinite(losses).all() else losses.mean(axis=0)
        curves[f"{name}, {lr:g}"] = (points, curve)
    repeats = len(next(iter(found.values()))[batch].accuracy)
    figure = figures.learning_curves(
        curves,
        x_label="epochs",
        y_label="validation loss (nats)",
        title=f"Batches of {batch:,} and the chosen learning rates, {_over(repeats)}",
    )
    axis = figure.axes[0].yaxis
    figure.axes[0].set_yscale("log")
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:.1g}" if f"{value:.0e}"[0] in "25" else "")
    return figure


def _band(values: stats.Array) -> stats.Band | stats.Array:
    return stats.learning_curve(values, rng=_RNG) if len(values) > 1 else values[0]


def _over(repeats: int) -> str:
    return f"{repeats} seeds" if repeats > 1 else "one seed"

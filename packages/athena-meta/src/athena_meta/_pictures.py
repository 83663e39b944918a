"""Pictures of few-shot learning: scores by step, results side by side, one episode as it is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from athena_core import AthenaError
from athena_core.figures import PALETTE, learning_curves
from athena_core.stats import Band
from athena_meta._episodes import Episodes
from athena_meta._evaluation import Evaluation, formatted
from athena_meta._learner import FewShotLearner
from athena_meta._metric_learner import MetricLearner, evaluating
from athena_meta._prototypes import prototypes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#555555"
_RIGHT, _WRONG = PALETTE[2], PALETTE[1]
_MARKERS = "osD^vP*X"


def results_table(results: Mapping[str, Evaluation]) -> str:
    """A table in Markdown: a row a learner, the score after its last step with both intervals.

    Args:
        results: evaluations by the name of the learner, all of one metric.

    Raises ValueError for none, and for several metrics.

    >>> print(results_table({"predict 0": Evaluation("MSE", np.array([[4.0, 4.5]]))}))
    | learner | MSE | by class | episodes |
    |---|---|---|---|
    | predict 0 | 4.250 ± 0.490 (95 %) | | 2 |
    """
    metric = _metric(results)
    unit = " (%)" if metric == "accuracy" else ""
    lines = [f"| learner | {metric}{unit} | by class | episodes |", "|---|---|---|---|"]
    for name, result in results.items():
        by_class = result.by_class() if result.knows_classes else None
        score, _, wider = formatted(metric, result.interval(), by_class).partition(", by class ")
        lines.append(f"| {name} | {score} | {wider} | {result.episodes} |".replace("|  |", "| |"))
    return "\n".join(lines)


def plot_results(results: Mapping[str, Evaluation], *, title: str = "") -> Figure:
    """Draw a row a learner: its score, the interval by episode, and the one by class as a thin line.

    Args:
        results: evaluations by the name of the learner, all of one metric.
        title: above the picture.

    Raises ValueError for none, and for several metrics; AthenaError without matplotlib.

    >>> plot_results({"predict 0": Evaluation("MSE", np.array([[4.0, 4.5]]))}).axes[0].get_xlabel()
    'MSE with its interval (95 %) by episode'
    """
    metric = _metric(results)
    factor = 100 if metric == "accuracy" else 1
    wider = any(result.knows_classes for result in results.values())
    width = 6.4 + 0.08 * max(0, max(map(len, results)) - 20)
    figure = blank_figure(width, 1.4 + 0.42 * len(results))
    axes = figure.add_subplot()
    for row, result in enumerate(results.values()):
        colour = PALETTE[row % len(PALETTE)]
        estimate, low, high = (factor * value for value in result.interval())
        axes.plot([low, high], [row, row], color=colour, linewidth=7, alpha=0.35, solid_capstyle="butt")
        axes.plot(estimate, row, color=colour, marker="o", markersize=6)
        if result.knows_classes:
            _, low, high = (factor * value for value in result.by_class())
            axes.plot([low, high], [row, row], color=colour, linewidth=1.2)
    axes.set_yticks(range(len(results)), labels=list(results))
    axes.set_ylim(len(results) - 0.4, -0.6)
    unit = " (%)" if metric == "accuracy" else ""
    axes.set_xlabel(f"{metric}{unit} with its interval (95 %) by episode{'; thin: by class' * wider}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, loc="left", fontsize="large", pad=12)
    return figure


def plot_steps(
    results: Mapping[str, Evaluation], *, title: str = "", levels: Mapping[str, float] | None = None
) -> Figure:
    """Draw the score over the steps of adaptation, with the interval by episode.

    Args:
        results: evaluations by the name of the learner, all of one metric.
        title: above the picture.
        levels: by label, scores to compare with, drawn as lines.

    Raises ValueError for none, and for several metrics; AthenaError without matplotlib.

    >>> plot_steps({"MAML": Evaluation("MSE", np.array([[4.0, 4.5], [1.0, 1.2]]))}).axes[0].get_ylabel()
    'MSE'
    """
    metric = _metric(results)
    factor = 100 if metric == "accuracy" else 1
    curves = {
        name: (np.arange(result.steps + 1), Band(*(factor * np.asarray(part) for part in result.curve())))
        for name, result in results.items()
    }
    unit = " (%)" if metric == "accuracy" else ""
    figure = learning_curves(
        curves,
        x_label="steps of adaptation",
        y_label=f"{metric}{unit}",
        title=title,
        levels={label: factor * level for label, level in (levels or {}).items()},
    )
    axes = figure.axes[0]
    for line in axes.lines[: len(results)]:
        line.set_marker("o")
    axes.margins(x=0.03)
    if metric != "accuracy":
        axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True)
    return figure


def plot_episode(
    learner: FewShotLearner,
    episodes: Episodes,
    *,
    task: int = 0,
    classes: Sequence[str] | None = None,
    n_query: int = 8,
    title: str = "",
) -> Figure:
    """Draw one episode of images: each class's support, its queries framed by whether they are recognised.

    Beside them, for a metric learner, the features of all in two dimensions, those of the largest variance,
    with the prototypes as crosses.

    Args:
        learner: any of this package's.
        episodes: of images ``(height, width)`` or ``(channels, height, width)``, one channel or three.
        task: which of the episodes.
        classes: names of the data set's classes, to be found by ``episodes.classes``; None: numbers.
        n_query: queries a class that are shown, at most.
        title: above the picture.

    Raises ValueError for other than images, AthenaError without matplotlib.

    >>> from athena_meta import PrototypicalNetwork
    >>> x, y = torch.rand(1, 6, 1, 8, 8), torch.tensor([[0, 0, 1, 1, 2, 2]])
    >>> len(plot_episode(PrototypicalNetwork(torch.nn.Flatten()), Episodes(x, y, x, y)).axes)
    13
    """
    home = next(iter(learner.parameters()), episodes.support_x).device
    one = episodes.take(task, task + 1).dense().to("cpu")
    answers = learner.predict(one.to(home))[0].argmax(-1).cpu()
    names = [str(way) for way in range(int(one.support_y.max()) + 1)]
    if classes is not None and one.classes is not None:
        names = [f"{classes[number]}  {way}" for way, number in enumerate(one.classes[0].tolist())]
    supports = [one.support_x[0][one.support_y[0] == way] for way in range(len(names))]
    shown = [(one.query_y[0] == way).nonzero().flatten()[:n_query] for way in range(len(names))]
    k = max(map(len, supports))
    figure, grid, space = _panels(
        len(names), k + max(map(len, shown)), with_space=isinstance(learner, MetricLearner)
    )
    for way, row in enumerate(grid):
        _draw_images(row[:k], supports[way])
        _draw_queries(row[k:], one.query_x[0][shown[way]], answers[shown[way]].tolist(), way)
        row[0].set_ylabel(names[way], rotation=0, ha="right", va="center", fontsize="small")
    for column, text in ((0, "support"), (k, "queries")):
        grid[0][column].set_title(text, fontsize="small", loc="left")
    if isinstance(learner, MetricLearner) and space is not None:
        _draw_space(space, learner, one.to(home), answers, names)
    figure.suptitle(title, x=0.02, ha="left", fontsize="large")
    return figure


def _panels(ways: int, columns: int, *, with_space: bool) -> tuple[Figure, Any, Axes | None]:
    """A figure with a grid of axes for images and, beside it, axes for the features."""
    pictures, beside = 1.1 + 0.62 * columns, 4.4
    height = max(0.72 * ways + 0.9, beside - 0.2 if with_space else 0)
    figure = blank_figure(pictures + beside * with_space, height)
    widths = [pictures, beside][: 1 + with_space]
    parts = figure.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0]
    grid = parts[0].subplots(ways, columns, squeeze=False)
    parts[0].supxlabel(
        "queries: green if recognised, else with the number they are taken for", fontsize="x-small"
    )
    return figure, grid, parts[1].add_subplot() if with_space else None


def _draw_images(row: Sequence[Axes], images: Tensor) -> None:
    for axes in row:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, image in zip(row, images, strict=False):
        axes.imshow(_pixels(image), cmap="gray_r", vmin=0, vmax=1)


def _draw_queries(row: Sequence[Axes], images: Tensor, answers: Sequence[int], way: int) -> None:
    _draw_images(row, images)
    for axes, answer in zip(row, answers, strict=False):
        right = answer == way
        axes.spines[:].set(visible=True, color=_RIGHT if right else _WRONG, linewidth=1.0 if right else 2.0)
        if not right:
            axes.set_xlabel(str(answer), fontsize="x-small", color=_WRONG, labelpad=1)


def _draw_space(
    axes: Axes, learner: MetricLearner, one: Episodes, answers: Tensor, names: Sequence[str]
) -> None:
    with torch.no_grad(), evaluating(learner):
        support, query = (
            learner.encode(x).flatten(2)[0].cpu().double() for x in (one.support_x, one.query_x)
        )
    together = torch.cat([support, query])
    middle = together.mean(0)
    # Right singular vectors: the directions of the largest variance.
    directions = torch.linalg.svd(together - middle, full_matrices=False).Vh[:2]
    support, query, means = (
        ((part - middle) @ directions.T).numpy()
        for part in (support, query, prototypes(support, one.support_y[0].cpu()))
    )
    labels = one.support_y[0].cpu().numpy(), one.query_y[0].cpu().numpy()
    wrong = answers.numpy() != labels[1]
    for way, name in enumerate(names):
        look: dict[str, Any] = {
            "color": PALETTE[way % len(PALETTE)],
            "marker": _MARKERS[way // len(PALETTE) % len(_MARKERS)],
        }
        axes.scatter(*_columns(support[labels[0] == way]), s=36, alpha=0.9, label=name, **look)
        axes.scatter(*_columns(query[labels[1] == way]), s=14, alpha=0.45, linewidths=0, **look)
        axes.scatter(*_columns(means[way : way + 1]), s=110, marker="x", color=look["color"], linewidths=2.2)
    axes.scatter(*_columns(query[wrong]), s=60, facecolors="none", edgecolors=_GREY, linewidths=1.0)
    axes.set(xticks=[], yticks=[], box_aspect=1)
    axes.set_xlabel(
        "large: support; small: queries, ringed where wrong; crosses: prototypes", fontsize="x-small"
    )
    axes.spines[:].set_color("0.8")
    if len(names) <= 10:
        axes.legend(fontsize="x-small", frameon=False, loc="best")


def _columns(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two coordinates; of features of one dimension, 0 for the second."""
    return points[:, 0], points[:, 1] if points.shape[1] > 1 else np.zeros(len(points))


def _pixels(image: Tensor) -> np.ndarray:
    image = image.squeeze()
    if image.ndim == 3 and image.shape[0] == 3:
        image = image.movedim(0, -1)
    elif image.ndim != 2:
        raise ValueError(
            f"an episode to draw must have images of one channel or three; got shape {tuple(image.shape)}."
        )
    return image.clamp(0, 1).numpy()


def _metric(results: Mapping[str, Evaluation]) -> str:
    metrics = sorted({result.metric for result in results.values()})
    if len(metrics) != 1:
        raise ValueError(
            f"`results` must hold evaluations of one metric; got {' and '.join(metrics) or 'none'}. "
            "Show them one by one."
        )
    return metrics[0]


def blank_figure(width: float, height: float) -> Figure:
    """A figure with nothing on it, its size in inches."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ModuleNotFoundError as error:
        raise AthenaError("Figures need matplotlib: run `pip install 'athena-meta[plot]'`.") from error
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03)
    return Figure(figsize=(width, height), dpi=150, layout=layout, facecolor="white")

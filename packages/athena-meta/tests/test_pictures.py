"""Pictures show what they are given: texts, curves and panels are read back."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_models import Drawn, encoder, episodes
from torch import nn

from athena_core import AthenaError
from athena_core.figures import save
from athena_meta import (
    BaselinePlusPlus,
    Episodes,
    Evaluation,
    PrototypicalNetwork,
    evaluate,
    plot_episode,
    plot_results,
    plot_steps,
    results_table,
)

pytest.importorskip("matplotlib")


def accuracy(*shape: int) -> Evaluation:
    return Evaluation("accuracy", np.random.default_rng(0).uniform(0.4, 0.8, shape))


def images(*, channels: int = 1, k_shot: int = 2) -> Episodes:
    y = torch.tensor([[4, 7, 9] * k_shot, [9, 7, 4] * k_shot])
    x = torch.rand(2, 3 * k_shot, channels, 6, 6)
    return Episodes(x, y, x[:, :5], y[:, :5], torch.tensor([[0, 1, 2], [2, 0, 1]]))


def test_the_table_has_a_row_a_learner() -> None:
    held = episodes([0, 1, 2], [0, 1, 2, 2], tasks=8)
    evaluation = evaluate(PrototypicalNetwork(encoder()), Drawn(held), episodes=8)
    lines = results_table({"prototypes": evaluation, "guess": accuracy(1, 8)}).splitlines()
    assert lines[0] == "| learner | accuracy (%) | by class | episodes |"
    half = 50 * (evaluation.by_class().high - evaluation.by_class().low)
    assert lines[2].startswith("| prototypes | ")
    assert lines[2].endswith(f"(95 %) | ± {half:.1f} | 8 |")
    assert lines[3].endswith("(95 %) | | 8 |")


def test_results_show_both_intervals() -> None:
    held = episodes([0, 1, 2], [0, 1, 2, 2], tasks=8)
    evaluation = evaluate(PrototypicalNetwork(encoder()), Drawn(held), episodes=8)
    axes = plot_results({"prototypes": evaluation, "guess": accuracy(1, 8)}, title="both").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["prototypes", "guess"]
    wide, point, thin = axes.lines[:3]
    assert wide.get_xdata() == pytest.approx([100 * end for end in evaluation.interval()[1:]])
    assert point.get_xdata() == pytest.approx([100 * evaluation.interval().estimate])
    assert thin.get_xdata() == pytest.approx([100 * end for end in evaluation.by_class()[1:]])
    assert len(axes.lines) == 5  # without classes there is no thin line
    assert axes.get_title(loc="left") == "both"


@pytest.mark.parametrize("steps", [0, 5, 100])
def test_steps_show_the_curve(steps: int) -> None:
    evaluation = accuracy(steps + 1, 9)
    axes = plot_steps({"learner": evaluation}).axes[0]
    assert axes.lines[0].get_xdata().tolist() == list(range(steps + 1))
    assert axes.lines[0].get_ydata() == pytest.approx(100 * evaluation.scores.mean(1))
    assert axes.get_ylabel() == "accuracy (%)"
    errors = plot_steps({"learner": Evaluation("MSE", evaluation.scores)}).axes[0]
    assert errors.lines[0].get_ydata() == pytest.approx(evaluation.scores.mean(1))
    assert errors.get_ylim()[0] == 0
    level = plot_steps({"learner": evaluation}, levels={"chance": 0.2}).axes[0].lines[1]
    assert level.get_ydata()[0] == pytest.approx(20)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_episode_shows_support_queries_answers_and_prototypes(channels: int, tmp_path: Path) -> None:
    learner, batch = PrototypicalNetwork(nn.Flatten()), images(channels=channels)
    wrong = batch._replace(query_y=batch.query_y.roll(1, 1))  # not what the support says
    figure = plot_episode(learner, wrong, task=1, classes=["ant", "bee", "cow"], title="one")
    *grid, space = figure.axes
    # Of class 4 one query is shown, of the others two: two columns beside two of support.
    assert len(grid) == 3 * 4
    assert [axes.get_ylabel() for axes in grid[::4]] == ["cow  0", "ant  1", "bee  2"]
    assert sum(len(axes.images) for axes in grid) == 6 + 5
    ranks = wrong.dense()
    answers = learner.predict(wrong)[1].argmax(-1)
    said = [axes.get_xlabel() for axes in grid if axes.get_xlabel()]
    expected = [
        str(a.item()) for way in range(3) for a, y in zip(answers, ranks.query_y[1], strict=True) if y == way
    ]
    assert said == expected
    crosses = [points for points in space.collections if points.get_sizes()[0] == 110]
    assert len(crosses) == 3
    save(figure, tmp_path / "episode.png")


def test_an_episode_of_other_learners_has_no_panel_of_features() -> None:
    learner = BaselinePlusPlus(nn.Flatten(), features=36, n_classes=3)
    assert len(plot_episode(learner, images(), n_query=1).axes) == 3 * 3


def test_features_of_one_dimension() -> None:
    learner = PrototypicalNetwork(nn.Sequential(nn.Flatten(), nn.Linear(36, 1)))
    assert len(plot_episode(learner, images()).axes) == 3 * 4 + 1


def test_an_episode_of_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one channel or three; got shape \(4,\)"):
        plot_episode(PrototypicalNetwork(encoder()), episodes([0, 1], [0, 1]))


def test_results_of_two_metrics_are_refused() -> None:
    both = {"a": accuracy(1, 4), "b": Evaluation("MSE", accuracy(1, 4).scores)}
    for draw in (results_table, plot_results, plot_steps):
        with pytest.raises(ValueError, match="one metric; got MSE and accuracy"):
            draw(both)
        with pytest.raises(ValueError, match="one metric; got none"):
            draw({})


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AthenaError, match=r"pip install 'athena-meta\[plot\]'"):
        plot_results({"a": accuracy(1, 4)})

"""What is recorded of several tasks, and its pictures."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from athena_multitask import (
    Balanced,
    PCGrad,
    TaskHistory,
    UncertaintyWeighting,
    balance,
    conflict_rate,
    plot_conflicts,
    plot_cosines,
    plot_weights,
)


def balanced(*rows: list[float], tasks: str = "abc", weights: Tensor | None = None) -> Balanced:
    """What `balance` would return for these gradients."""
    matrix = torch.tensor(rows)
    return Balanced(tuple(tasks), matrix @ matrix.T, weights, ())


def test_conflict_rate_by_hand() -> None:
    cosines = torch.tensor([[1.0, -0.5, 0.3], [-0.5, 1.0, -1e-6], [0.3, -1e-6, 1.0]])
    assert conflict_rate(cosines) == pytest.approx(2 / 3)
    cosines[0, 1] = torch.nan
    assert conflict_rate(cosines) == 0.5
    assert math.isnan(conflict_rate(torch.ones(1, 1)))
    assert conflict_rate(np.eye(3)) == 0


def test_records_what_balance_returns_and_weights() -> None:
    encoder = nn.Linear(3, 2)
    outputs = encoder(torch.randn(8, 3))
    history = TaskHistory(["a", "b"])
    losses = {"b": outputs.sum(), "a": -outputs.sum()}
    history.record(4, balanced=balance(losses, shared=encoder.parameters(), method=PCGrad(seed=0)))
    np.testing.assert_allclose(history.cosines, [[[1, -1], [-1, 1]]], atol=1e-6)
    assert history.conflict_rates.tolist() == [1]
    weighting = UncertaintyWeighting(["a", "b"])
    weighting({"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
    history.record(5, weights=weighting.weights)
    assert history.weights[1].tolist() == [0.5, 0.5]
    assert history.steps.tolist() == [4, 5]


def test_names_decide_where_rows_go_and_missing_tasks_are_unknown() -> None:
    history = TaskHistory(["a", "b", "c"])
    two = balanced([1.0, 0.0], [-1.0, 0.0], tasks="ca", weights=torch.tensor([0.25, 0.75]))
    history.record(0, balanced=two)
    history.record(1, balanced=balanced([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]), weights={"b": 3.0})
    np.testing.assert_array_equal(history.weights, [[0.75, np.nan, 0.25], [np.nan, 3, np.nan]])
    np.testing.assert_array_equal(history.cosines[0, :, 1], [np.nan] * 3)
    assert history.cosines[0, 0, 2] == -1
    np.testing.assert_array_equal(history.conflict_rates, [1, 0])  # a zero gradient conflicts with none
    assert history.mean_cosines()[0, 2] == -0.5
    assert history.mean_cosines()[1, 2] == 0


def test_a_task_that_is_not_finite_is_unknown() -> None:
    history = TaskHistory(["a", "b", "c"])
    history.record(0, balanced=balanced([1.0, 0.0], [torch.nan, 0.0], [-1.0, torch.inf]))
    assert np.isnan(history.cosines[0][1:]).all()
    history.record(1, balanced=balanced([1.0, 0.0], [torch.nan, 0.0], [-1.0, 1.0]))
    assert history.conflict_rates[1] == 1


def test_nothing_recorded() -> None:
    history = TaskHistory(["a", "b"])
    assert history.steps.shape == (0,)
    assert history.weights.shape == (0, 2)
    assert history.cosines.shape == (0, 2, 2)
    assert np.isnan(history.mean_cosines()).all()
    for plot in (plot_cosines, plot_conflicts, plot_weights):
        with pytest.raises(ValueError, match="`history` must hold a"):
            plot(history)


def test_goes_on_from_a_checkpoint() -> None:
    history = TaskHistory(["a", "b"])
    history.record(0, balanced=balanced([1.0, 0.0], [-1.0, 1.0], tasks="ab"), weights=[0.1, 0.9])
    file = io.BytesIO()
    torch.save(history.state_dict(), file)
    file.seek(0)
    resumed = TaskHistory(["a", "b"])
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for one in (history, resumed):
        one.record(3, weights=[0.5, 0.5])
    for name in ("steps", "weights", "cosines"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(history, name))
    with pytest.raises(ValueError, match="checkpoint must be of the tasks"):
        TaskHistory(["b", "a"]).load_state_dict(history.state_dict())


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="`tasks` must be names, each once"):
        TaskHistory(["a", "a"])
    history = TaskHistory(["a", "b"])
    with pytest.raises(ValueError, match="got 'c'"):
        history.record(0, weights={"c": 1.0})
    with pytest.raises(ValueError, match="`weights` must be of the 2 tasks; got 3"):
        history.record(0, weights=[1.0, 2.0, 3.0])
    history.record(0, weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="`step` must be larger than 0; got 0"):
        history.record(0)


def drawn_history(tasks: int, steps: int) -> TaskHistory:
    """Gradients that turn, and weights that drift."""
    names = [f"task number {number}" for number in range(tasks)]
    history, generator = TaskHistory(names), torch.Generator().manual_seed(0)
    matrix = torch.randn(tasks, 6, generator=generator)
    for step in range(steps):
        matrix = matrix + 0.2 * torch.randn(tasks, 6, generator=generator)
        history.record(
            step * 10,
            balanced=Balanced(tuple(names), matrix @ matrix.T, None, ()),
            weights=(matrix[:, 0] / 5).softmax(0) * tasks,
        )
    return history


@pytest.mark.parametrize(("tasks", "steps"), [(1, 1), (3, 500), (50, 3)])
def test_pictures_show_what_was_recorded(tasks: int, steps: int) -> None:
    history = drawn_history(tasks, steps)
    picture = plot_cosines(history, title="cosines").axes[0].images[0].get_array()
    np.testing.assert_allclose(picture, history.mean_cosines())
    lines = plot_weights(history).axes[0].lines
    assert len(lines) == tasks
    assert len(lines[0].get_xdata()) == min(steps, 200)
    first = -(-steps // 200)  # records that make the first point
    np.testing.assert_allclose(lines[0].get_ydata()[0], history.weights[:first, 0].mean())
    if tasks > 1:
        rates = plot_conflicts(history).axes[0].lines[0].get_ydata()
        np.testing.assert_allclose(rates[0], history.conflict_rates[:first].mean())
    else:
        with pytest.raises(ValueError, match="cosine of two tasks"):
            plot_conflicts(history)


def test_pairs_that_no_step_knows_are_masked() -> None:
    history = TaskHistory(["a", "b", "c"])
    history.record(0, balanced=balanced([1.0, 0.0], [-1.0, 1.0], tasks="ab"))
    picture = plot_cosines(history).axes[0].images[0].get_array()
    assert np.ma.getmaskarray(picture)[2].all()


def test_without_matplotlib_the_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    history = drawn_history(2, 2)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    for plot, package in ((plot_cosines, "athena-multitask"), (plot_weights, "athena-core")):
        with pytest.raises(Exception, match=rf"pip install '{package}\[plot\]'"):
            plot(history)

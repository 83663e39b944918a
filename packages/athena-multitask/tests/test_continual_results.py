"""Metrics of the accuracy matrix, worked by hand; its records, state and picture."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from athena_core import AthenaError
from athena_multitask import (
    ContinualResults,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    plot_accuracies,
)

# rows: after each of three tasks
ACCURACIES = [[0.9, 0.3, 0.2], [0.95, 0.8, 0.4], [0.5, 0.7, 1.0]]
nan = float("nan")


def test_equations_2_to_4_by_hand():
    assert average_accuracy(ACCURACIES) == pytest.approx((0.5 + 0.7 + 1.0) / 3)
    assert backward_transfer(ACCURACIES) == pytest.approx(((0.5 - 0.9) + (0.7 - 0.8)) / 2)
    assert forward_transfer(ACCURACIES, [0.1, 0.1, 0.3]) == pytest.approx(((0.3 - 0.1) + (0.4 - 0.3)) / 2)


def test_forgetting_is_from_the_best_of_before():
    assert forgetting(ACCURACIES) == pytest.approx(((0.95 - 0.5) + (0.8 - 0.7)) / 2)
    gained = [[0.5, nan], [0.75, 1.0]]  # below 0: it got better
    assert forgetting(gained) == -0.25
    assert backward_transfer(gained) == 0.25


@given(arrays(np.float64, (4, 4), elements=st.floats(0, 1)))
@settings(max_examples=30)
def test_forgetting_is_at_least_what_backward_transfer_takes(matrix):
    assert forgetting(matrix) >= -backward_transfer(matrix) - 1e-12
    kept = np.tril(np.ones((4, 4))) * matrix.diagonal()
    assert forgetting(kept) == 0 == backward_transfer(kept)


def test_what_is_not_needed_may_be_unknown():
    lower = [[0.9, nan, nan], [0.95, 0.8, nan], [0.5, 0.7, 1.0]]
    assert forgetting(lower) == forgetting(ACCURACIES)
    assert backward_transfer(lower) == backward_transfer(ACCURACIES)
    with pytest.raises(ValueError, match="`accuracies` must hold all that are needed; got NaN"):
        forward_transfer(lower, [0, 0, 0])
    for metric in (average_accuracy, backward_transfer, forgetting):
        with pytest.raises(ValueError, match="got NaN"):
            metric([[nan, 0.0], [nan, 1.0]])
    with pytest.raises(ValueError, match="got NaN"):
        forgetting([[0.5, 0.0, 0.0], [nan, 0.5, 0.0], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("metric", "matrix", "words"),
    [
        (average_accuracy, [[0.1, 0.2]], r"each of at least 1 task; got \(1, 2\)"),
        (average_accuracy, np.ones((0, 0)), r"got \(0, 0\)"),
        (forgetting, [[1.0]], r"at least 2 tasks; got \(1, 1\)"),
        (backward_transfer, [[1.0]], r"at least 2 tasks; got \(1, 1\)"),
        (
            lambda matrix: forward_transfer(matrix, [0.1]),
            ACCURACIES,
            r"`untrained` must be \(3,\).*got \(1,\)",
        ),
    ],
)
def test_shapes(metric, matrix, words):
    with pytest.raises(ValueError, match=words) as error:
        metric(matrix)
    assert "\n" not in str(error.value)


def filled() -> ContinualResults:
    results = ContinualResults(["a", "b", "c"])
    results.record(None, {"a": 0.1, "b": 0.1, "c": 0.3})
    for name, row in zip("abc", ACCURACIES, strict=True):
        results.record(name, dict(zip("abc", row, strict=True)))
    return results


def test_results_give_their_metrics():
    assert filled().metrics() == pytest.approx(
        {
            "average_accuracy": 2.2 / 3,
            "backward_transfer": -0.25,
            "forgetting": 0.275,
            "forward_transfer": 0.15,
        }
    )
    one = ContinualResults(["a"])
    one.record("a", {"a": 0.5})
    assert one.metrics() == {"average_accuracy": 0.5}


def test_a_state_round_trip():
    results = filled()
    again = ContinualResults(["a", "b", "c"])
    state = results.state_dict()
    again.load_state_dict(state)
    assert np.array_equal(again.accuracies, results.accuracies)
    assert np.array_equal(again.untrained, results.untrained)
    again.record("a", {"a": 0.0})
    assert state["accuracies"][0, 0] == 0.9  # shares no memory
    with pytest.raises(ValueError, match=r"must be of the tasks \['b', 'a'\]; got \['a', 'b', 'c'\]"):
        ContinualResults(["b", "a"]).load_state_dict(state)


def test_unknown_and_double_names():
    for tasks in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="`tasks` must be different names, at least one"):
            ContinualResults(tasks)
    for after, tested in (("z", {"a": 1.0}), ("a", {"z": 1.0})):
        with pytest.raises(ValueError, match=r"one of \['a', 'b', 'c'\]; got 'z'"):
            filled().record(after, tested)


@pytest.mark.parametrize("methods", [1, 2, 4, 5])
def test_the_picture_has_a_matrix_a_method_and_a_number_a_known_cell(methods):
    pytest.importorskip("matplotlib")
    results = {f"method {number}": filled() for number in range(methods)}
    results["method 0"].accuracies[0, 2] = nan
    figure = plot_accuracies(results, title="three tasks")
    drawn = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in drawn] == list(results)
    assert len(drawn[0].texts) == 8
    assert all(len(axes.texts) == 9 for axes in drawn[1:])
    assert drawn[0].get_ylabel() == "after training on"
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == methods + 1  # and the bar of colours


def test_a_picture_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AthenaError, match=r"pip install 'athena-multitask\[plot\]'"):
        plot_accuracies({"plain": filled()})


def test_a_picture_of_nothing():
    with pytest.raises(ValueError, match="`results` must hold those of a method; got none"):
        plot_accuracies({})

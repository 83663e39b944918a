"""The recipe `progressive`, small: forgetting, resume, pictures, tasks, misuse."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from athena_core import AthenaError, Interrupted
from athena_core.testing import execute
from athena_multitask import ProgressiveRecipe

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from athena_multitask._recipe_progressive_tasks import TASKS, digit_tasks, glyphs

SMALL: dict[str, Any] = {"steps": 4, "tasks": ("digits", "glyphs", "rotated"), "width": 12, "log_every": 2}


def test_progressive_networks_forget_nothing_and_fine_tuning_does(tmp_path):
    recipe = ProgressiveRecipe(steps=80, tasks=("digits", "inverted"), width=32, lr=0.005)
    final, rows, text = execute(recipe, tmp_path / "run")
    assert final["progressive_forgetting"] == 0
    assert final["frozen_features_forgetting"] == 0
    assert final["alone_forgetting"] == 0
    assert final["fine-tuning_forgetting"] > 0.1
    assert final["EWC_forgetting"] < final["fine-tuning_forgetting"]
    assert final["progressive_learned_accuracy"] > 0.8
    assert [row["step"] for row in rows] == [50, 80, 100, 150, 160]
    for words in ("accuracy on 2 tasks", "forgetting", "  frozen features"):
        assert words in text
    figures = sorted(path.name for path in (tmp_path / "run" / "figures").iterdir())
    assert figures == ["accuracies.png", "first_task.png", "transfer.png"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return execute(ProgressiveRecipe(**SMALL), tmp_path_factory.mktemp("runs") / "whole")


@pytest.mark.parametrize("cut", [2, 4, 6])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, whole, cut):
    """Cut within the first task, between two, and within the second."""
    with pytest.raises(Interrupted):
        execute(ProgressiveRecipe(**SMALL), tmp_path / "cut", cut=cut)
    assert execute(ProgressiveRecipe(**SMALL), tmp_path / "cut")[:2] == whole[:2]


def test_one_task_has_nothing_to_forget(tmp_path):
    final, _, _ = execute(ProgressiveRecipe(**{**SMALL, "tasks": ("glyphs",)}), tmp_path / "run")
    assert "progressive_forgetting" not in final
    assert not (tmp_path / "run" / "figures" / "transfer.png").exists()


def test_tasks_are_the_same_images_in_guises():
    tasks = {task.name: task for task in digit_tasks(TASKS, seed=0)}
    digits = tasks["digits"]
    for name in TASKS:
        task = tasks[name]
        assert (len(task.x), len(task.x_test)) == (1200, 597)
        assert task.x.shape[1] == 64
        assert 0 <= task.x.min() <= task.x.max() <= 1
        assert task.y.unique().tolist() == list(range(10))
        if name != "glyphs":
            assert task.y.equal(digits.y)
    assert tasks["inverted"].x.equal(1 - digits.x)
    assert tasks["permuted"].x.sort().values.equal(digits.x.sort().values)
    assert tasks["rotated"].x[:, 0].equal(digits.x[:, 7])
    again, other = (digit_tasks(["glyphs", "permuted"], seed=seed) for seed in (0, 1))
    assert again[0].x.equal(tasks["glyphs"].x)
    assert again[1].x.equal(tasks["permuted"].x)
    assert not other[0].x.equal(again[0].x)
    assert not other[1].x.equal(again[1].x)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(AthenaError, match=r"pip install 'athena-multitask\[recipes\]'"):
        digit_tasks(["digits"], seed=0)


def test_glyphs_of_a_class_are_nearer_to_their_mean_than_to_others():
    images, labels = glyphs(1000, seed=0)
    means = np.stack([images[labels == number].mean(0) for number in range(10)])
    nearest = ((images[:, None] - means) ** 2).sum(-1).argmin(1)
    assert 0.7 < (nearest == labels).mean() < 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "`steps` must be at least 1; got 0"),
        ({"width": 0}, "`width` must be at least 1; got 0"),
        ({"batch": 0}, "`batch` must be at least 1; got 0"),
        ({"log_every": 0}, "`log_every` must be at least 1; got 0"),
        ({"lr": -1.0}, "`lr` must be finite and at least 0; got -1.0"),
        ({"ewc_strength": float("inf")}, "`ewc_strength` must be finite and at least 0; got inf"),
        ({"tasks": ()}, "`tasks` must name at least one of digits, .*; got none"),
        ({"tasks": ("digits", "digits")}, "`tasks` must be different ones of digits, .*; got 'digits'"),
        ({"tasks": ("letters",)}, "`tasks` must be different ones of digits, .*; got 'letters'"),
    ],
)
def test_misuse_is_told_in_one_line(tmp_path, options, words):
    with pytest.raises(AthenaError, match=words) as error:
        execute(ProgressiveRecipe(**{**SMALL, **options}), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()

"""Three tasks of digits: data, pairing, the relative change, and a run that is cut."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from athena_core import AthenaError, Run
from athena_core.testing import CutRun
from athena_multitask import MultitaskDigits
from athena_multitask._recipe_digits import Training, Trainings
from athena_multitask._recipe_digits_data import TASKS, Examples, digits_losses, digits_scores, read_digits
from athena_multitask._recipe_digits_results import (
    ALONE,
    RELATIVE,
    relative_change,
    scores_figure,
    summarised,
)

CPU = torch.device("cpu")


def test_held_out_images_are_not_trained_on() -> None:
    train, held_out = read_digits(0, CPU)
    assert (len(train.digits), len(held_out.digits)) == (1198, 599)
    assert torch.cdist(train.images, held_out.images).min() > 0
    other, _ = read_digits(1, CPU)
    assert not other.digits.equal(train.digits)


def test_images_are_standardised_by_those_trained_on() -> None:
    train, _ = read_digits(0, CPU)
    torch.testing.assert_close(train.images.mean(0), torch.zeros(64), rtol=0, atol=1e-5)
    assert train.images.std(0).max() < 1


def test_losses_and_scores_by_hand() -> None:
    examples = Examples(torch.zeros(2, 64), torch.tensor([3, 8]))
    predictions = {
        "class": torch.zeros(2, 10),
        "parity": torch.tensor([[0.0, 1.0], [0.0, 1.0]]),
        "magnitude": torch.tensor([[2.0], [6.0]]),
    }
    losses = digits_losses(predictions, examples)
    expected = np.log(10), np.log1p(np.e) - 0.5, 2.5
    np.testing.assert_allclose([losses[task].item() for task in TASKS], expected, rtol=1e-6)
    assert digits_scores(predictions, examples) == {"class": 0.0, "parity": 0.5, "magnitude": 2.5}


def test_relative_change_by_hand() -> None:
    """(+10 % of 0.8) and (-25 % of an error of 4, which is better): 17.5 %."""
    scores, alone = np.array([[0.88, 3.0], [0.8, 4.0]]), np.array([[0.8, 4.0], [0.8, 4.0]])
    np.testing.assert_allclose(relative_change(scores, alone, [False, True]), [17.5, 0.0])


def test_an_interval_is_of_the_mean_over_seeds() -> None:
    values = {ALONE: np.ones((4, 3)), "static": 1 + np.arange(12.0).reshape(4, 3) / 100}
    interval = summarised(values)["static"]["class"]
    assert interval.low < interval.estimate < interval.high
    assert interval.estimate == pytest.approx(values["static"][:, 0].mean())
    assert summarised(values)[ALONE][RELATIVE].estimate == 0


def test_intervals_are_drawn_as_long_as_they_are() -> None:
    results = summarised({ALONE: np.ones((2, 3)), "static": np.full((2, 3), 0.5)})
    bars = [line for axes in scores_figure(results, seeds=2).axes for line in axes.lines[:4:2]]
    assert len(bars) == 8
    assert {bar.get_solid_capstyle() for bar in bars} == {"butt"}  # a projecting cap would lengthen them


def test_methods_of_a_seed_start_alike_and_see_the_same_batches(tmp_path: Path) -> None:
    recipe = MultitaskDigits(methods=("pcgrad", "static"), repeats=2, width=8)
    with Run(tmp_path / "run", device="cpu", seed=3) as run:
        trainings = Trainings(recipe, recipe.methods, run)
        run.finish({})
    assert trainings.seeds == [6, 7]
    states = [trainings.trainings[key].model.state_dict() for key in (("pcgrad", 6), ("static", 6))]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    alone = trainings.trainings[f"{ALONE} parity", 6].model.state_dict()
    torch.testing.assert_close(alone, states[0], rtol=0, atol=0)
    epoch = torch.cat([trainings.batch(6, 0, number).images for number in range(trainings.steps_an_epoch)])
    assert len(epoch.unique(dim=0)) > 1100  # of 1152: each image once, some of them are alike
    assert not trainings.batch(6, 0, 0).images.equal(trainings.batch(6, 1, 0).images)
    assert not trainings.batch(6, 0, 0).images.equal(trainings.batch(7, 0, 0).images)


def test_the_plain_sum_is_plain_training() -> None:
    """The recipe's step by `static` is the gradient of the sum, and Adam."""
    train, _ = read_digits(0, CPU)
    batch = train.take(torch.arange(32))
    ours, plain = (Training("static", TASKS, width=8, seed=1, lr=1e-2, device=CPU) for _ in range(2))
    for _ in range(3):
        ours.step(batch)
        plain.optimizer.zero_grad()
        sum(plain.losses(batch).values(), torch.zeros(())).backward()
        plain.optimizer.step()
    torch.testing.assert_close(ours.model.state_dict(), plain.model.state_dict())


def test_a_task_alone_leaves_the_other_heads() -> None:
    training = Training("static", ["parity"], width=8, seed=1, lr=1e-2, device=CPU)
    before = training.model.heads["class"].weight.clone()  # type: ignore[union-attr]
    training.step(read_digits(0, CPU)[0].take(torch.arange(16)))
    assert training.model.heads["class"].weight.equal(before)  # type: ignore[arg-type]


def test_run_writes_scores_of_every_seed_and_pictures(tmp_path: Path) -> None:
    recipe = MultitaskDigits(steps=20, methods=("mgda", "dwa"), repeats=2, width=16, log_every=20)
    with Run(tmp_path / "run", device="cpu") as run:
        final = recipe.run(run)
        run.finish(final)
    rows = list(csv.DictReader((tmp_path / "run" / "results.csv").read_text().splitlines()))
    assert len(rows) == 3 * 2
    mean = np.mean([float(row["class"]) for row in rows if row["method"] == "dwa"])
    assert final["dwa_class"] == pytest.approx(mean)
    assert final[f"{ALONE}_relative_change"] == 0
    pictures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert pictures == {"scores", "cosines", "conflicts"}


def test_run_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    recipe = MultitaskDigits(steps=4, methods=("gradnorm", "pcgrad"), repeats=2, width=8, log_every=1)
    with Run(tmp_path / "whole", device="cpu") as run:
        whole = recipe.run(run)
        run.finish(whole)
    with pytest.raises(KeyboardInterrupt), CutRun(tmp_path / "cut", cut=2, device="cpu") as run:
        recipe.run(run)
    with Run(tmp_path / "cut", device="cpu") as run:
        assert recipe.run(run) == whole
        run.finish(whole)
    pictures = [(tmp_path / name / "figures" / "cosines.png").read_bytes() for name in ("whole", "cut")]
    assert pictures[0] == pictures[1]


def test_without_a_balancer_there_are_no_cosines_to_draw(tmp_path: Path) -> None:
    recipe = MultitaskDigits(steps=2, methods=("static",), repeats=2, width=8)
    with Run(tmp_path / "run", device="cpu") as run:
        run.finish(recipe.run(run))
    assert [path.stem for path in (tmp_path / "run" / "figures").iterdir()] == ["scores"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"repeats": 1}, "`repeats` must be at least 2; got 1"),
        ({"lr": 0.0}, "`lr` must be above 0"),
        ({"batch_size": 1200}, "at most 1000; got 0.001 and 1200"),
        ({"methods": ("pcgard",)}, "got 'pcgard'"),
        ({"methods": ("dwa", "dwa")}, "each once; got 'dwa'"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(AthenaError, match=said), Run(tmp_path / "run", device="cpu") as run:
        MultitaskDigits(**options).run(run)  # type: ignore[arg-type]

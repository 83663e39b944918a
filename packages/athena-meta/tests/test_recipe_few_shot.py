"""The recipe `few-shot`, small: every learner and data, resume, splits, pictures, misuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from athena_core import AthenaError, Configured, Interrupted, Run, saved_run
from athena_core.testing import execute
from athena_meta import (
    CIFARFS,
    Episodes,
    EpisodeSampler,
    FewShot,
    FewShotDataset,
    MiniImageNet,
    Omniglot,
    evaluate,
    pixel_accuracy,
)
from athena_meta._example_images import write_example_image
from athena_meta._plugin import TABLES
from athena_meta._recipe_few_shot_data import Splits, check_apart, read_splits
from athena_meta._recipe_few_shot_parts import NearestPixels

pytest.importorskip("matplotlib")

LEARNERS = [name for name, *_ in TABLES["few-shot-learner"]]
GRADIENT = ["anil", "implicit-maml", "maml", "maml-plus-plus", "meta-sgd", "reptile"]
IN_STEPS = [*GRADIENT, "baseline", "baseline-pp"]
SMALL: dict[str, Any] = {
    "steps": 4,
    "n_way": 3,
    "n_query": 2,
    "train_query": 1,
    "width": 4,
    "log_every": 1,
    "validate_every": 2,
    "validation_episodes": 4,
    "test_episodes": 10,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve classes of four images, without a split."""
    for number in range(48):
        path = tmp_path / "data" / f"class{number // 4:02}" / f"{number}.png"
        write_example_image(path, number, channels=1, size=16)
    return tmp_path / "data"


def learner(name: str = "prototypical", **options: Any) -> Configured:
    return Configured("few-shot-learner", name, options)


def data(name: str, **options: Any) -> Configured:
    return Configured("few-shot-data", name, options)


def recipe(where: Path, **options: Any) -> FewShot:
    """On folders: of twelve classes eight remain to train on."""
    own = {"data": data("class-folders", channels=1), "folder": where, "n_way": 2, "train_way": 2}
    return FewShot(**{**SMALL, **own, **options})


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_trains_and_is_tested_beside_the_nearest_pixels(folder, tmp_path, name):
    final, rows, text = execute(recipe(folder, learner=learner(name)), tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert ["validation_accuracy" in row for row in rows] == [False, True, False, True]
    assert 0 <= final["accuracy"] <= 1
    assert final["validation_accuracy"] == max(row.get("validation_accuracy", 0) for row in rows)
    assert final["best_step"] in (2, 4)
    for words in ("8, 2, 2", "2-way 1-shot, 10 episodes", "by class", f"  {name}", "  nearest pixels"):
        assert words in text
    figures = sorted(path.name for path in (tmp_path / "run" / "figures").iterdir())
    assert figures == ["accuracy_by_step.png"] * (name in IN_STEPS) + ["episode.png"]


@pytest.mark.parametrize("name", ["prototypical", "maml", "baseline-pp"])
@pytest.mark.parametrize("cut", [1, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(folder, tmp_path, name, cut):
    """Before the first validation, and with a best state from before the cut."""
    small = recipe(folder, learner=learner(name))
    whole = execute(small, tmp_path / "whole")
    with pytest.raises(Interrupted):
        execute(small, tmp_path / "cut", cut=cut)
    assert execute(small, tmp_path / "cut")[:2] == whole[:2]


def test_on_glyphs_it_learns_what_new_alphabets_need(tmp_path):
    small = FewShot(
        steps=40, width=16, train_way=10, n_query=5, validation_episodes=20, test_episodes=60, lr=3e-3
    )
    final, _, text = execute(small, tmp_path / "run")
    assert "814, 170, 639" in text
    assert final["accuracy"] > final["nearest_pixels_accuracy"] + 0.1


def test_the_rate_is_halved_by_episodes(folder, tmp_path, monkeypatch):
    rates = []
    step = torch.optim.Adam.step

    def noted(self: torch.optim.Adam, *given: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *given)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    execute(recipe(folder, tasks=2, halve_every=4, lr=0.08), tmp_path / "run")
    assert rates == [0.08, 0.08, 0.04, 0.04]


def test_the_best_state_is_saved_and_is_the_one_that_is_tested(folder, tmp_path):
    """As the docstring has it, from the folder alone."""
    values = {"n_way": 2, "train_way": 2, "folder": str(folder)}
    toml = {"learner": {"name": "prototypical"}, "data": {"name": "class-folders", "channels": 1}}
    config = {"recipe": "few-shot", "seed": 0, "device": "cpu", **SMALL, **values, **toml}
    with Run(tmp_path / "run", config=config, device="cpu", console=Console(quiet=True)) as run:
        final = recipe(folder).run(run)
    saved = saved_run(tmp_path / "run")
    best = saved.state["best"]
    assert isinstance(saved.recipe, FewShot)
    built = saved.recipe.build(best["shape"], best["classes"])
    built.load_state_dict(best["learner"])
    test = read_splits(saved.recipe.data, saved.recipe.folder).test
    sampler = EpisodeSampler(test, n_way=2, k_shot=1, n_query=2, seed=-2)
    assert evaluate(built, sampler, episodes=10).interval().estimate == final["accuracy"]


def test_steps_of_the_test_may_be_others(folder, tmp_path):
    small = recipe(folder, learner=learner("maml", inner_steps=1), test_steps=3)
    execute(small, tmp_path / "run")
    assert (tmp_path / "run" / "figures" / "accuracy_by_step.png").is_file()


def test_batch_norm_uses_the_support_set_unless_told_otherwise():
    for given, used in ((None, False), (False, False), (True, True)):
        built = FewShot(learner=learner("maml", transductive=given)).build((1, 28, 28), 9)
        assert built.transductive is used
        assert built.modes.mode == "vmap"


def test_a_metric_learner_trains_with_twenty_ways_and_a_gradient_learner_with_its_own():
    many = FewShotDataset(torch.rand(240, 1, 16, 16), torch.arange(240) % 30)
    few = many.select(many.classes[:7])
    assert FewShot().training_sampler(many, 0).n_way == 20
    assert FewShot().training_sampler(few, 0).n_way == 7
    assert FewShot(train_way=6).training_sampler(many, 0).n_way == 6
    assert FewShot(learner=learner("maml")).training_sampler(many, 0).n_way == 5


@pytest.mark.parametrize(("layout", "name"), [(MiniImageNet, "mini-imagenet"), (CIFARFS, "cifar-fs")])
def test_published_splits_are_used_as_they_are(tmp_path, layout, name):
    layout.write_example(tmp_path / "data")
    splits = read_splits(data(name, size=16), tmp_path / "data")
    assert [len(part.classes) for part in splits] == [3, 2, 2]


def test_omniglot_loses_whole_alphabets_to_a_validation_split(tmp_path):
    """Whose example has two alphabets to train on; these are more."""
    for number in range(60):
        part = "images_background" if number < 40 else "images_evaluation"
        path = tmp_path / part / f"Alphabet_{number // 8}" / f"character{number // 4 % 2}" / f"{number}.png"
        write_example_image(path, number, channels=1, size=16)
    splits = read_splits(data("omniglot", size=16), tmp_path)
    alphabets = [sorted({name.partition("/")[0][-1] for name in part.classes}) for part in splits]
    assert alphabets == [["0", "1", "2", "3"], ["4"], ["5", "6", "7"]]


def test_glyphs_share_neither_classes_nor_drawers():
    splits = read_splits(data("glyphs"), None)
    for part in (splits.validation, splits.test):
        assert not set(part.classes) & set(splits.train.classes)
        assert not set(part.drawers.tolist()) & set(splits.train.drawers.tolist())


def test_what_is_shared_is_named():
    whole = FewShotDataset(torch.rand(8, 2), [*"aabbccdd"])
    with pytest.raises(AthenaError, match="no class in training and test; got 'b' in both"):
        check_apart(Splits(whole.select("ab"), whole.select("c"), whole.select("bd")))
    with pytest.raises(AthenaError, match="no class in validation and test; got 'c' in both"):
        check_apart(Splits(whole.select("ab"), whole.select("c"), whole.select("cd")))
    apart = Splits(*(whole.select(name) for name in "abc"))
    apart.train.drawers, apart.validation.drawers = torch.tensor([1, 2]), torch.tensor([2, 2])  # type: ignore[attr-defined]
    with pytest.raises(AthenaError, match="no drawer in training and validation; got 2 in both"):
        check_apart(apart)


def test_nearest_pixels_are_those_of_the_calibration():
    """Another draw of episodes of the same data, so within its error."""
    images = (torch.arange(12)[:, None] == torch.arange(12)).float().repeat_interleave(8, 0)
    images += 0.6 * torch.rand(96, 12)
    labels = torch.arange(96) // 8
    sampler = EpisodeSampler(FewShotDataset(images, labels), n_way=5, n_query=5, seed=0)
    tested = evaluate(NearestPixels(), sampler, episodes=400).interval()
    expected = pixel_accuracy(images, labels, n_way=5, episodes=400)
    assert abs(tested.estimate - expected) < 2 * (tested.high - tested.low)


def test_nearest_pixels_take_the_nearest_of_several_shots():
    support = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.7, 0.6], [-1.0, 0.0]]])
    y = torch.tensor([[0, 0, 1, 1]])
    query = torch.tensor([[[0.1, 1.0], [1.0, 1.0], [-1.0, 0.1]]])
    answers = NearestPixels().predict(Episodes(support, y, query, torch.tensor([[0, 1, 1]]))).argmax(-1)
    assert answers.tolist() == [[0, 1, 1]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k_shot": 0}, "`k_shot` must be at least 1; got 0"),
        ({"lr": -1.0}, "`lr` must be at least 0; got -1.0"),
        ({"n_way": 1}, "`n_way` must be at least 2; got 1"),
        ({"train_way": 1}, "`train_way` must be at least 2; got 1"),
        ({"validate_every": 0}, "`validate_every` must be at least 1; got 0"),
        ({"test_episodes": 1}, "`test_episodes` must be at least 2; got 1"),
        ({"test_steps": 3}, "`test_steps` must be left out for 'prototypical'"),
        ({"test_steps": -1, "learner": learner("maml")}, "`test_steps` must be at least 0; got -1"),
        ({"train_way": 3, "learner": learner("maml")}, "`train_way` must be `n_way`, 2, for 'maml'"),
        ({"train_way": 30}, "class-folders: `n_way` must be"),
        ({"k_shot": 9}, "class-folders: .* must be at most the images of every class"),
        ({"folder": None}, "`folder` must say where the data 'class-folders' are"),
        ({"folder": Path("absent")}, "few-shot-data `class-folders`: "),
        ({"learner": learner("prototypical", distance="far")}, "few-shot-learner `prototypical`: `distance`"),
    ],
)
def test_misuse_is_told_in_one_line(folder, tmp_path, options, words):
    with pytest.raises(AthenaError, match=words) as error:
        execute(recipe(folder, **options), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_data_that_cannot_be_used_are_refused(tmp_path):
    for number in range(12):
        write_example_image(tmp_path / f"class{number // 4}" / f"{number}.png", number, channels=3, size=16)
    with pytest.raises(AthenaError, match="at least 5 groups of classes to be divided; got 3"):
        read_splits(data("class-folders"), tmp_path)
    with pytest.raises(AthenaError, match=r"must be square images .*; got \(3, 8, 16\)"):
        FewShot().build((3, 8, 16), 4)
    Omniglot.write_example(tmp_path / "omniglot")
    with pytest.raises(AthenaError, match="at least 5 groups"):
        read_splits(data("omniglot"), tmp_path / "omniglot")

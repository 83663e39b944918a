"""The recipe `lm` with torch's own optimizer and schedule, found through a host of the test's own."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from athena_core import AthenaError, Component, Configured, Kind, Run, hookimpl
from athena_nn import NoPositions, _plugin
from athena_nn._recipe_lm import LM, learning_curve, printable

pytest.importorskip("matplotlib")


class TorchParts:
    """Stands in for athena-optim: torch's own parts, by the same kinds."""

    @hookimpl
    def athena_kinds(self) -> list[Kind]:
        return [
            Kind("optimizer", "torch.optim:Optimizer", "Updates parameters"),
            Kind("schedule", "torch.optim.lr_scheduler:LRScheduler", "Sets learning rates"),
            Kind("param-groups", "builtins:object", "Splits parameters"),
        ]

    @hookimpl
    def athena_components(self) -> list[Component]:
        return [
            Component("optimizer", "adam", "torch.optim:Adam", "Adam"),
            Component("schedule", "constant", "torch.optim.lr_scheduler:ConstantLR", "Constant"),
            Component("param-groups", "decay-matrices", "torch.nn:Module.parameters", "All alike"),
        ]


@pytest.fixture
def host(athena_host):
    athena_host.register(_plugin, "athena-nn", "0.1.0", "nn")
    return athena_host


@pytest.fixture
def recipe(host, tmp_path: Path) -> LM:
    host.register(TorchParts(), "torch-parts", "1.0", "parts")
    data = tmp_path / "text"
    data.write_text("to be or not to be, that is the question. " * 40, encoding="utf-8")
    return LM(
        steps=30,
        data=data,
        batch=4,
        context=16,
        width=32,
        layers=1,
        heads=2,
        eval_every=10,
        sample_length=12,
        optimizer=Configured("optimizer", "adam", {"lr": 1e-2}),
        schedule=Configured("schedule", "constant", {"factor": 1.0}),
    )


def execute(recipe: LM, folder: Path) -> tuple[dict[str, float], list[dict[str, float]], str]:
    console = Console(record=True, width=120, file=io.StringIO())
    with Run(folder, device="cpu", seed=3, console=console) as run:
        final = dict(recipe.run(run))
        run.finish(final)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return final, rows, console.export_text()


def test_it_learns_and_shows_what_it_promises(recipe, tmp_path):
    final, rows, text = execute(recipe, tmp_path / "run")
    assert set(final) == {"heldout_bits_per_byte", "unigram_entropy", "xz_alone", "xz_given_training_text"}
    assert final["heldout_bits_per_byte"] < final["unigram_entropy"]
    assert final["xz_given_training_text"] < final["xz_alone"]
    assert [row["step"] for row in rows] == list(range(1, 31))
    assert [row["step"] for row in rows if "heldout_bits_per_byte" in row] == [10, 20]
    assert rows[-1]["bits_per_byte"] < rows[0]["bits_per_byte"] == pytest.approx(8.0, abs=0.3)
    for words in ("before training", "after training", "this model", "unigram entropy", "xz -9e"):
        assert words in text
    assert (tmp_path / "run" / "figures" / "learning_curve.png").stat().st_size > 10_000


def test_one_seed_gives_one_result_and_another_another(recipe, tmp_path):
    first, again = (execute(recipe, tmp_path / name)[:2] for name in ("first", "again"))
    assert first == again
    recipe.dropout = 0.1
    assert execute(recipe, tmp_path / "dropout")[1] != first[1]


def test_evaluating_more_often_changes_no_training(recipe, tmp_path):
    """Evaluation draws no random number and leaves dropout on."""
    recipe.dropout = 0.2
    often, seldom = (execute_every(recipe, tmp_path, every) for every in (1, 100))
    assert often == seldom


def execute_every(recipe: LM, folder: Path, every: int) -> list[float]:
    recipe.eval_every = every
    return [row["loss"] for row in execute(recipe, folder / f"every{every}")[1]]


def test_positions_get_the_sizes_they_name(recipe):
    model = recipe._model()
    assert model.positions.head_dim == 16
    recipe.positions = Configured("positions", "none", {})
    assert type(recipe._model().positions) is NoPositions


def test_the_curve_shows_both_losses_and_all_costs(recipe, tmp_path):
    final, _, _ = execute(recipe, tmp_path / "run")
    marks = {name: value for name, value in final.items() if name != "heldout_bits_per_byte"}
    (axes,) = learning_curve(tmp_path / "run" / "metrics.jsonl", (30, 1.5), marks).axes
    training, held, *costs = axes.lines
    assert len(training.get_xdata()) == 30
    assert list(held.get_xdata()) == [10, 20, 30]
    assert held.get_ydata()[-1] == 1.5
    assert [line.get_ydata()[0] for line in costs] == list(marks.values())


def test_generated_text_cannot_command_a_terminal():
    assert printable(b"a\x1b[31m\tb\xff\n") == "a·[31m·b·\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "`heads` must divide `width` = 32; got 5"),
        ({"batch": 0}, "`batch` must be at least 1"),
        ({"eval_every": 0}, "`eval_every`"),
        ({"sample_length": -1}, "`sample_length`"),
        ({"temperature": -1.0}, "`temperature`"),
        ({"dropout": 1.0}, r"`dropout` must lie in \[0, 1\)"),
        ({"context": 5000}, "more than one context of 5000 bytes"),
        ({"data": Path("/absent")}, "does not exist"),
        ({"width": 6}, "positions `rotary`: `head_dim` must be even"),
        (
            {"optimizer": Configured("optimizer", "adam", {"lr": -1.0})},
            "optimizer `adam`: Invalid learning rate",
        ),
    ],
)
def test_bad_options_are_one_line(recipe, tmp_path, options, message):
    for name, value in options.items():
        setattr(recipe, name, value)
    with pytest.raises(AthenaError, match=message) as caught:
        execute(recipe, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_it_requires_what_its_defaults_come_from_and_what_draws_its_curve():
    """So that what is missing is said before the training, not after it."""
    (component,) = (c for c in _plugin.athena_components() if c.kind == "recipe")
    names = [requirement.partition(">")[0] for requirement in component.requires]
    assert names == ["athena-optim", "matplotlib"]
    assert {LM().optimizer.name, LM().schedule.name} == {"adamw", "warmup-cosine"}


def test_parameters_stay_float32(recipe):
    assert {p.dtype for p in recipe._model().parameters()} == {torch.float32}

"""The recipes `digits` and `compress`: their stages, their files, resuming in each stage, and mistakes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from athena_compress import Int8Conv, Int8Linear, load
from athena_compress._digits import Batches, read_digits
from athena_compress._recipe_compress import Compress
from athena_compress._recipe_digits import DigitsNet
from athena_compress._stage_results import Result, bars, comparison, peak_bytes, trade_off
from athena_compress._workload import begin
from athena_core import AthenaError, Configured, Run
from athena_core.testing import execute


def small(**options: Any) -> Compress:
    task = Configured("recipe", "digits", {"width": 4, "batch": 16})
    sizes = {"steps": 3, "prune_steps": 4, "distil_steps": 3, "qat_steps": 3, "calibration_batches": 1}
    return Compress(task=task, **{**sizes, **options})


def test_the_chain_leaves_a_model_a_stage(tmp_path):
    final, rows, text = execute(small(), tmp_path / "run")
    names = ["dense", "pruned", "distilled", "int8-static"]
    assert [row["step"] for row in rows] == list(range(1, 14))
    results = json.loads((tmp_path / "run" / "stages.json").read_text())
    assert [one["stage"] for one in results] == names
    assert all(f"{name}_accuracy" in final for name in names)
    sizes = [final[f"{name}_bytes"] for name in names]
    assert sizes[0] > sizes[1] == sizes[2]
    assert all(one["one_ms"] > 0 and one["peak_bytes"] > 0 for one in results)
    for name in names:
        assert name in text
        model = load(tmp_path / "run" / "stages" / name)
        score = DigitsNet(width=4).evaluate(model)["accuracy"]
        assert score == final[f"{name}_accuracy"]
    assert isinstance(model[0], Int8Conv)
    assert isinstance(model[-1], Int8Linear)
    pictures = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert pictures == {"trade_off.png", "stages.png"}


@pytest.mark.parametrize("cut", [2, 3, 5, 7, 8, 10, 12])
def test_a_run_cut_in_any_stage_goes_on_alike(tmp_path, cut):
    expected = execute(small(), tmp_path / "whole")[:2]
    with pytest.raises(KeyboardInterrupt):
        execute(small(), tmp_path / "cut", cut=cut)
    assert execute(small(), tmp_path / "cut")[:2] == expected


@pytest.mark.parametrize(
    ("left_out", "names"),
    [
        ({"prune_steps": 0}, ["dense", "distilled", "int8-static"]),
        ({"sparsity": 0.0, "distil_steps": 0}, ["dense", "int8-static"]),
        ({"distil_steps": 0, "qat_steps": 0, "scheme": "int8-dynamic"}, ["dense", "pruned", "int8-dynamic"]),
        ({"prune_steps": 0, "distil_steps": 0, "qat_steps": 0, "scheme": None}, ["dense"]),
        ({"prune_steps": 0, "distil_steps": 0, "qat_steps": 0}, ["dense", "int8-static"]),
    ],
)
def test_stages_can_be_left_out(tmp_path, left_out, names):
    final, _, _ = execute(small(**left_out), tmp_path / "run")
    assert [name for name in final if name.endswith("accuracy")] == [f"{name}_accuracy" for name in names]


def test_stages_begin_on_the_runs_device():
    # of no values, as every machine has it: what is left on another device cannot be added to it
    recipe, run = small(qat_steps=0), SimpleNamespace(device=torch.device("meta"), seed=0)
    start = begin(recipe.task, None, run.device)
    recipe.rehearse(recipe.stages(run, start), start)


def test_an_importance_that_needs_inputs_sees_some(tmp_path):
    options = {"importance": "wanda", "what": ("weights",), "distil_steps": 0, "qat_steps": 0, "scheme": None}
    expected = execute(small(**options), tmp_path / "whole")[:2]
    pruned = load(tmp_path / "whole" / "stages" / "pruned")
    assert (pruned[0].weight == 0).flatten(1).float().mean(1).sub(0.5).abs().max() < 0.1  # row by row
    with pytest.raises(KeyboardInterrupt):
        execute(small(**options), tmp_path / "cut", cut=4)
    assert execute(small(**options), tmp_path / "cut")[:2] == expected


def saved_digits(folder: Path) -> DigitsNet:
    recipe = DigitsNet(steps=5, width=4, batch=16)
    config = {"recipe": "digits", "device": "cpu", "seed": 3, "steps": 5, "width": 4, "batch": 16}
    run = Run(folder, config=config, seed=3, device="cpu", console=Console(quiet=True))
    with run:
        run.finish(dict(recipe.run(run)))
    return recipe


@pytest.mark.parametrize("stages", [{}, {"prune_steps": 0, "distil_steps": 0, "qat_steps": 0}])
def test_a_saved_run_is_where_it_begins(tmp_path, stages):
    recipe = saved_digits(tmp_path / "digits")
    final, rows, _ = execute(small(model=tmp_path / "digits", **stages), tmp_path / "run")
    dense = load(tmp_path / "run" / "stages" / "dense")
    assert final["dense_accuracy"] == recipe.evaluate(dense)["accuracy"]
    state = torch.load(tmp_path / "digits" / "checkpoints" / "step-00000005.pt", weights_only=True)["state"]
    assert all(torch.equal(state["model"][name], value) for name, value in dense.state_dict().items())
    assert len(rows) == (10 if not stages else 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sparsity": 1.0}, r"`sparsity` must lie in \[0, 1\); got 1.0"),
        ({"steps": 0}, "`steps` must be at least 1 without a saved `model`"),
        ({"prune_steps": -1}, "`prune_steps` must be at least 0; got -1"),
        ({"calibration_batches": 0}, "`calibration_batches` must be at least 1"),
        ({"scheme": "int8-dynamic"}, "`qat_steps` trains for `scheme` int8-static; got int8-dynamic"),
        ({"scheme": "int9", "qat_steps": 0}, "unknown quantization-scheme `int9`"),
        ({"what": ("chanels",)}, "`what` must be .* got .*chanels"),
        ({"importance": "magnitud"}, "Did you mean `magnitude`"),
        ({"temperature": 0.0}, "`temperature`"),
        ({"alpha": 1.5}, "`alpha`"),
        ({"model": Path("nowhere")}, "nowhere holds no run"),
        ({"task": Configured("recipe", "compress", {})}, "recipe compress must have `build`"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(tmp_path, options, says):
    with pytest.raises(AthenaError, match=says) as caught:
        execute(replace(small(), **options), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_digits_learns(tmp_path):
    final, rows, text = execute(DigitsNet(steps=60, width=8), tmp_path / "run")
    assert final["accuracy"] > 0.8
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert "359 images held out" in text


def test_batches_are_a_permutation_each_time_through():
    train, held = read_digits()
    assert (len(train.labels), len(held.labels)) == (1438, 359)
    assert train.images.min() == 0
    assert train.images.max() == 1
    data = Batches(train, batch=100, seed=0)
    first = torch.cat([data.draw()[0] for _ in range(14)]).flatten(1)
    assert len(first.unique(dim=0)) > 1390  # no image twice, but for those that are equal
    state = data.state_dict()
    expected = data.draw()
    other = Batches(train, batch=100, seed=9)
    other.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(other.draw(), expected, strict=True))


def test_what_is_measured_can_be_read():
    results = [Result("dense", 0.98, 4096, 2.0, 9.0, 8192), Result("small", 0.97, 1024, 1.0, 3.0, 4096)]
    text = comparison(results, "accuracy")
    assert "1.0 KiB (0.25x)" in text
    assert "1.00 ms (0.50x)" in text
    assert len(trade_off(results, "accuracy").axes[0].lines) == 3  # a dot each, and the line through them
    assert len(bars(results, "accuracy").axes) == 5


def test_memory_at_most_holds_the_weights_and_what_a_pass_makes():
    model = nn.Sequential(nn.Linear(1000, 100, bias=False), nn.ReLU())
    x = torch.zeros(1000, 1000)
    at_most = peak_bytes(model, x)
    weights, made = 4 * 1000 * 100, 4 * 1000 * 100
    assert weights + 2 * made <= at_most <= weights + 4 * made

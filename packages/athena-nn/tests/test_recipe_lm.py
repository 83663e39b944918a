"""The recipe `lm` with torch's own optimizer and schedule, found through a host of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from athena_core import AthenaError, Configured, Interrupted
from athena_core.testing import execute
from athena_nn import LayerNorm, NoPositions, _plugin
from athena_nn._plugin import ACTIVATIONS, NORMS, POSITIONS
from athena_nn._recipe_lm import LM, learning_curve, printable

pytest.importorskip("matplotlib")


@pytest.fixture
def recipe(recipe_host, tmp_path: Path) -> LM:
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


def changed(recipe: LM, options: dict[str, object]) -> LM:
    for name, value in options.items():
        setattr(recipe, name, value)
    return recipe


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
    assert execute(changed(recipe, {"dropout": 0.1}), tmp_path / "dropout")[1] != first[1]


def test_evaluating_more_often_changes_no_training(recipe, tmp_path):
    """Evaluation draws no random number and leaves dropout on."""
    losses = {}
    for every in (1, 100):
        options = {"dropout": 0.2, "drop_path": 0.2, "eval_every": every}
        _, rows, _ = execute(changed(recipe, options), tmp_path / f"every{every}")
        losses[every] = [row["loss"] for row in rows]
    assert losses[1] == losses[100]


@contextmanager
def zeroed(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """An optimizer's weights to evaluate with, all 0, by which every byte is as probable as any other."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    held = [param.detach().clone() for param in params]
    torch._foreach_zero_([param.data for param in params])
    yield
    torch._foreach_copy_([param.data for param in params], held)


def test_it_evaluates_with_the_weights_that_an_optimizer_has_for_it(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim.Adam, "evaluation_weights", zeroed, raising=False)
    final, rows, _ = execute(recipe, tmp_path / "run")
    assert final["heldout_bits_per_byte"] == pytest.approx(8.0)
    between = [row["heldout_bits_per_byte"] for row in rows if "heldout_bits_per_byte" in row]
    assert between == pytest.approx([8.0, 8.0])
    assert rows[-1]["bits_per_byte"] < 7


def test_a_resumed_run_equals_an_uninterrupted_one(recipe, tmp_path):
    changed(recipe, {"steps": 6, "eval_every": 2, "dropout": 0.2, "drop_path": 0.2, "layers": 2})
    changed(recipe, {"window": 5, "kv_heads": 1, "qk_norm": True, "norm_first": False})
    whole = execute(recipe, tmp_path / "whole")[:2]
    with pytest.raises(Interrupted):
        execute(recipe, tmp_path / "cut", cut=3)
    assert execute(recipe, tmp_path / "cut")[:2] == whole


def test_positions_get_the_sizes_they_name(recipe):
    assert recipe.build().positions.head_dim == 16
    recipe.positions = Configured("positions", "none")
    assert type(recipe.build().positions) is NoPositions
    recipe.positions = Configured("positions", "relative-bias")
    assert not recipe.build().positions.bidirectional  # a causal model has no use for buckets of the future


@pytest.mark.parametrize("positions", [name for name, *_ in POSITIONS])
def test_every_positions_trains_and_generates_and_checkpointing_changes_nothing(recipe, tmp_path, positions):
    changed(recipe, {"steps": 2, "layers": 2, "positions": Configured("positions", positions)})
    plain, saving = (
        execute(changed(recipe, {"checkpoint": checkpoint}), tmp_path / f"{checkpoint}")[1]
        for checkpoint in (False, True)
    )
    for row, other in zip(plain, saving, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-5)


@pytest.mark.parametrize("activation", [name for name, *_ in ACTIVATIONS])
@pytest.mark.parametrize("norm", [name for name, *_ in NORMS])
def test_every_norm_and_activation_builds_one_for_each_block(recipe, norm, activation):
    chosen = {"norm": Configured("norm", norm), "activation": Configured("activation", activation)}
    first, second = changed(recipe, {**chosen, "layers": 2}).build().blocks
    assert first.feed_forward.activation is not second.feed_forward.activation
    assert type(first.attention_norm) is type(second.feed_forward_norm)
    gated = getattr(first.feed_forward.activation, "gated", False)
    assert first.feed_forward.down.in_features == (96 if gated else 128)


def test_options_of_blocks_reach_them(recipe):
    options = {
        "kv_heads": 1,
        "window": 5,
        "norm_first": False,
        "qk_norm": True,
        "bias": True,
        "dropout": 0.25,
        "drop_path": 0.5,
        "layers": 2,
        "checkpoint": True,
        "tie_embeddings": False,
        "norm": Configured("norm", "layer", {"bias": False}),
    }
    model = changed(recipe, options).build()
    block = model.blocks[1]
    assert (block.attention.num_kv_heads, block.attention.window) == (1, 5)
    assert type(block.attention.q_norm) is type(block.attention_norm) is LayerNorm
    assert block.attention_norm.bias is None
    assert block.feed_forward.up.bias is not None
    assert (block.norm_first, block.attention.dropout, block.drop_path.p) == (False, 0.25, 0.5)
    assert model.checkpoint
    assert model.head.weight is not model.embedding.weight


def test_the_curve_shows_both_losses_and_all_costs(recipe, tmp_path):
    final, _, _ = execute(recipe, tmp_path / "run")
    (axes,) = learning_curve(tmp_path / "run" / "metrics.jsonl", 30, final).axes
    training, held, *costs = axes.lines
    assert len(training.get_xdata()) == 30
    assert list(held.get_xdata()) == [10, 20, 30]
    assert held.get_ydata()[-1] == final["heldout_bits_per_byte"]
    assert [line.get_ydata()[0] for line in costs] == list(final.values())[1:]


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
        ({"drop_path": -0.1}, r"`drop_path` must lie in \[0, 1\)"),
        ({"kv_heads": 3}, "`kv_heads` must divide `heads` = 2; got 3"),
        ({"kv_heads": 0}, "`kv_heads` must divide `heads` = 2; got 0"),
        ({"window": 0}, "`window` must be at least 1"),
        ({"sample_length": 16}, "`sample_length` must be below `context` = 16"),
        ({"norm": Configured("norm", "rms", {"eps": -1.0})}, "norm `rms`: `eps` must be"),
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
    with pytest.raises(AthenaError, match=message) as caught:
        execute(changed(recipe, options), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_it_requires_what_its_defaults_come_from_and_what_draws_its_curve():
    """So that what is missing is said before the training, not after it."""
    for component in (c for c in _plugin.athena_components() if c.kind == "recipe"):
        names = [requirement.partition(">")[0] for requirement in component.requires]
        assert names == ["athena-optim", "matplotlib"]
    assert {LM().optimizer.name, LM().schedule.name} == {"adamw", "warmup-cosine"}


def test_parameters_stay_float32(recipe):
    assert {p.dtype for p in recipe.build().parameters()} == {torch.float32}

"""The recipe `seq2seq` with torch's own optimizer and schedule."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from athena_core import AthenaError, Configured, Interrupted
from athena_core.testing import execute
from athena_nn._cross_weights import cross_attention_weights
from athena_nn._digits import STOP, VOCABULARY, answer, held_out_strings, question
from athena_nn._plugin import POSITIONS
from athena_nn._recipe_seq2seq import Seq2Seq, attention_maps, learning_curve, shares

pytest.importorskip("matplotlib")


@pytest.fixture
def recipe(recipe_host) -> Seq2Seq:
    return Seq2Seq(
        steps=6,
        eval_every=2,
        batch=4,
        width=32,
        layers=1,
        heads=2,
        shortest=2,
        longest=4,
        heldout=3,
        optimizer=Configured("optimizer", "adam", {"lr": 3e-3}),
        schedule=Configured("schedule", "constant", {"factor": 1.0}),
    )


def changed(recipe: Seq2Seq, options: dict[str, object]) -> Seq2Seq:
    for name, value in options.items():
        setattr(recipe, name, value)
    return recipe


def test_it_learns_and_shows_what_it_promises(recipe, tmp_path):
    changed(recipe, {"steps": 500, "eval_every": 200, "batch": 32, "longest": 3, "heldout": 30})
    final, rows, text = execute(recipe, tmp_path / "run")
    assert list(final) == ["exact_match", "exact_match_reverse", "exact_match_sort"]
    assert final["exact_match"] > 0.8  # untrained it is 0
    assert [row["step"] for row in rows if "exact_match" in row] == [200, 400]
    assert rows[0]["loss"] == pytest.approx(torch.tensor(float(VOCABULARY)).log().item(), abs=0.2)
    assert rows[-1]["token_accuracy"] > 0.9
    for words in ("40 strings held out", "length   reverse      sort", "all"):
        assert words in text
    for name in ("learning_curve", "cross_attention"):
        assert (tmp_path / "run" / "figures" / f"{name}.png").stat().st_size > 10_000


def test_it_evaluates_with_the_weights_that_an_optimizer_has_for_it(recipe, tmp_path, monkeypatch):
    optimizers = []

    def noted(optimizer: torch.optim.Optimizer) -> nullcontext[None]:
        optimizers.append(optimizer)
        return nullcontext()

    monkeypatch.setattr(torch.optim.Adam, "evaluation_weights", noted, raising=False)
    execute(recipe, tmp_path / "run")
    assert len(optimizers) == 3  # after steps 2 and 4, and at the end


def test_a_resumed_run_equals_an_uninterrupted_one(recipe, tmp_path):
    changed(recipe, {"dropout": 0.2, "drop_path": 0.2, "layers": 2})
    whole = execute(recipe, tmp_path / "whole")[:2]
    with pytest.raises(Interrupted):
        execute(recipe, tmp_path / "cut", cut=3)
    assert execute(recipe, tmp_path / "cut")[:2] == whole


def test_evaluating_more_often_changes_no_training(recipe, tmp_path):
    losses = {}
    for every in (1, 100):
        _, rows, _ = execute(changed(recipe, {"dropout": 0.2, "eval_every": every}), tmp_path / f"{every}")
        losses[every] = [row["loss"] for row in rows]
    assert losses[1] == losses[100]


@pytest.mark.parametrize("positions", [name for name, *_ in POSITIONS])
def test_every_positions_trains_and_answers(recipe, tmp_path, positions):
    changed(recipe, {"steps": 2, "eval_every": 1, "positions": Configured("positions", positions)})
    final, rows, _ = execute(recipe, tmp_path / "run")
    assert 0 <= final["exact_match"] <= 1
    assert len(rows) == 2


def test_only_the_encoder_gets_positions_that_look_ahead(recipe):
    model = changed(recipe, {"positions": Configured("positions", "relative-bias")}).build()
    assert model.encoder.positions.bidirectional
    assert not model.decoder.positions.bidirectional
    assert model.encoder.positions is not model.decoder.positions


def test_answers_count_only_if_they_end_in_time(recipe):
    """Greedy answers of a batch of unequal questions are those of each alone."""
    torch.manual_seed(1)
    model = recipe.build()
    strings = [digits for length in (2, 3, 4) for digits in held_out_strings(length, 3)]
    together = recipe.matches(model, strings)
    assert {length: len(some) for length, some in together["sort"].items()} == {2: 3, 3: 3, 4: 3}
    for task, lengths in together.items():
        alone = [m for digits in strings for m in recipe.matches(model, [digits])[task][len(digits)]]
        assert [m for some in lengths.values() for m in some] == alone


def test_a_model_that_is_right_matches_everywhere(recipe, monkeypatch):
    def oracle(_model, prompts, **options):
        assert options["stop_tokens"] == (STOP,)
        task = {12: "reverse", 13: "sort"}
        return [torch.tensor(answer(task[row[0].item()], tuple(row[1:].tolist()))) for row in prompts]

    monkeypatch.setattr("athena_nn._recipe_seq2seq.generate", oracle)
    monkeypatch.setattr("athena_nn._recipe_seq2seq.EVALUATED_AT_ONCE", 4)
    found = recipe.matches(recipe.build(), held_out_strings(3, 9))
    assert found == {"reverse": {3: [True] * 9}, "sort": {3: [True] * 9}}
    assert set(shares(found).values()) == {1.0}


def test_the_curve_shows_training_and_both_tasks(recipe, tmp_path):
    final, _, _ = execute(recipe, tmp_path / "run")
    (axes,) = learning_curve(tmp_path / "run" / "metrics.jsonl", 6, final).axes
    training, reverse, sort = axes.lines
    assert list(training.get_xdata()) == [1, 2, 3, 4, 5, 6]
    assert list(reverse.get_xdata()) == list(sort.get_xdata()) == [2, 4, 6]
    assert reverse.get_ydata()[-1] == final["exact_match_reverse"]


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "kv_heads": 1, "bias": True}])
def test_weights_of_cross_attention_are_those_that_the_model_uses(recipe, options):
    model = changed(recipe, {**options, "layers": 2}).build()
    source, target = torch.tensor(question("sort", (3, 1, 2))), torch.tensor([10, 1, 2])
    found = cross_attention_weights(model, source, target)
    assert found.shape == (2, 2, 3, 4)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(2, 2, 3))
    # the first block's cross-attention, applied by hand with these weights
    seen = {}
    block = model.decoder.layers()[0]
    cross = block.cross_attention
    hook = cross.out.register_forward_hook(lambda _, inputs, __: seen.update(heads=inputs[0]))
    with torch.no_grad():
        memory = model.encode(source[None])
        model.decoder(target[None], memory=memory)
        _, values = cross.memory_heads(memory)
        by_hand = found[0] @ values[0].repeat_interleave(2 // values.shape[1], dim=0)
    hook.remove()
    torch.testing.assert_close(seen["heads"][0], by_hand.transpose(0, 1).flatten(1))


def test_maps_have_a_panel_a_task_labelled_with_digits(recipe):
    reverse, sort, _ = attention_maps(recipe.build(), (3, 1, 2)).axes
    assert [label.get_text() for label in reverse.get_xticklabels()] == ["reverse", "3", "1", "2"]
    assert [label.get_text() for label in reverse.get_yticklabels()] == ["2", "1", "3", "end"]
    assert [label.get_text() for label in sort.get_yticklabels()] == ["1", "2", "3", "end"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shortest": 1}, "`shortest` must be at least 2, and at most `longest`; got 1 and 4"),
        ({"shortest": 5}, "got 5 and 4"),
        ({"heldout": 0}, "`heldout` must be at least 1"),
        ({"steps": 0}, "`steps` must be at least 1"),
        ({"heads": 3}, "`heads` must divide `width` = 32; got 3"),
        ({"width": 5, "heads": 5}, "positions `sinusoidal`: `embed_dim` must be even"),
    ],
)
def test_bad_options_are_one_line(recipe, tmp_path, options, message):
    with pytest.raises(AthenaError, match=message) as caught:
        execute(changed(recipe, options), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not Path(tmp_path / "run").exists()

"""The recipe `optimizers`, small, on data of the real layout: resumed, extended by strangers, misused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from athena_core import AthenaError, Component, Configured, Interrupted, hookimpl
from athena_core.testing import execute
from athena_optim import _plugin
from athena_optim._recipe_data import read_labelled, split_labelled
from athena_optim._recipe_optimizers import Optimizers
from athena_optim._recipe_results import accuracy_figure, choose, loss_figure
from athena_optim._recipe_search import Order, Setting, build_optimizer, names_in

pytest.importorskip("matplotlib")

SMALL: dict[str, Any] = {
    "steps": 8,
    "optimizers": ("adamw", "lookahead(adamw)"),
    "batch_sizes": (8, 16),
    "learning_rates": (1e-3, 1e-1),
    "repeats": 2,
    "evaluations": 2,
    "width": 8,
    "schedules": {},
}
CPU = torch.device("cpu")


def images(count: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Images of 8 x 8 pixels from 0 to 16, as the digits are, in three classes that differ in brightness."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 3
    pixels = generator.integers(0, 7, size=(count, 8, 8)) + 5 * labels[:, None, None]
    return pixels.astype(np.float64), labels


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    features, labels = images()
    np.savez(tmp_path / "images.npz", features=features, labels=labels)
    return tmp_path / "images.npz"


def recipe(npz: Path, **options: Any) -> Optimizers:
    return Optimizers(data=npz, **{**SMALL, **options})


def test_it_trains_every_setting_and_reports_test_accuracy_of_the_chosen_rate(npz, tmp_path):
    final, rows, text = execute(recipe(npz), tmp_path / "run")
    settings = [(row["optimizer"], row["batch"], row["lr"], row["repeat"]) for row in rows]
    assert [row["step"] for row in rows] == list(range(1, 33))
    assert len(set(settings)) == 2 * 2 * 2 * 2
    assert ["test_accuracy" in row for row in rows] == [False, True] * 16
    assert set(final) == {f"{name}_batch_{batch}" for name in SMALL["optimizers"] for batch in (8, 16)}
    assert all(0.2 < accuracy <= 1 for accuracy in final.values())
    for words in ("16 trainings", "60, 20, 20", "batch 16", "0.1 *", "minus adamw's"):
        assert words in text
    figures = sorted(path.name for path in (tmp_path / "run" / "figures").iterdir())
    assert figures == ["accuracy.png", "loss_batch_16.png", "loss_batch_8.png"]


def test_it_learns(npz, tmp_path):
    final, _, _ = execute(recipe(npz, steps=60, repeats=1, optimizers=("adamw",)), tmp_path / "run")
    assert final["adamw_batch_8"] > 0.9


def test_all_optimizers_of_a_repeat_start_from_the_same_weights_and_see_the_same_examples(npz, tmp_path):
    """Two wrappers around one optimizer that do nothing to its first steps log the same losses."""
    options = {"lookahead": {"k": 1000}}
    _, rows, _ = execute(recipe(npz, options=options), tmp_path / "run")
    losses = {0: [], 1: []}
    for row in rows:
        losses[row["optimizer"]].append(row["loss"])
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == len(losses[0])


@pytest.mark.parametrize("cut", [1, 2, 17])
def test_a_resumed_search_equals_an_uninterrupted_one(npz, tmp_path, cut):
    """In the middle of a training, at its end, and in one optimizer after another."""
    whole = execute(recipe(npz), tmp_path / "whole")
    with pytest.raises(Interrupted):
        execute(recipe(npz), tmp_path / "cut", cut=cut)
    assert execute(recipe(npz), tmp_path / "cut")[:2] == whole[:2]


KILLED = """
import os, signal, sys
from pathlib import Path
from athena_core import Run
from athena_optim._recipe_optimizers import Optimizers

class Killed(Run):
    def log(self, step, **metrics):
        super().log(step, **metrics)
        if step == 14:
            os.kill(os.getpid(), signal.SIGKILL)

with Killed(sys.argv[2], device="cpu", seed=3, checkpoint_seconds=0) as run:
    Optimizers(data=Path(sys.argv[1]), **{small}).run(run)
"""


def test_a_search_killed_between_two_checkpoints_goes_on_and_equals_one_that_was_not(npz, tmp_path):
    whole = execute(recipe(npz), tmp_path / "whole")
    command = [sys.executable, "-c", KILLED.format(small=SMALL), str(npz), str(tmp_path / "killed")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    rows = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 14  # one more than the checkpoint has
    assert execute(recipe(npz), tmp_path / "killed")[:2] == whole[:2]


def test_a_finished_training_is_not_done_again(npz, tmp_path, monkeypatch):
    begun: list[object] = []
    begin = Optimizers.begin

    def counting(self, setting, **rest):
        begun.append(setting)
        return begin(self, setting, **rest)

    monkeypatch.setattr(Optimizers, "begin", counting)
    with pytest.raises(Interrupted):
        execute(recipe(npz), tmp_path / "run", cut=10)
    assert len(begun) == 5
    execute(recipe(npz), tmp_path / "run")
    assert begun[5] == begun[4]  # made again, to load the checkpoint into
    assert len(begun) == 5 + 1 + 11


def test_a_complete_run_only_draws_again(npz, tmp_path):
    first, rows, _ = execute(recipe(npz), tmp_path / "run")
    (tmp_path / "run" / "figures" / "accuracy.png").unlink()
    again, same_rows, _ = execute(recipe(npz), tmp_path / "run")
    assert (again, same_rows) == (first, rows)
    assert (tmp_path / "run" / "figures" / "accuracy.png").exists()


def test_every_optimizer_and_every_wrapper_of_the_package_trains(npz, tmp_path):
    names = [name for name, *_ in _plugin.OPTIMIZERS]
    names += [f"{name}(adamw)" for name, *_ in _plugin.WRAPPERS]
    names.append("lookahead(sam(centralized-gradients(adamw)))")
    chosen = recipe(npz, optimizers=tuple(names), repeats=1, learning_rates=(1e-2,))
    final, rows, _ = execute(chosen, tmp_path / "run")
    assert len(final) == 2 * len(names)
    assert all("validation_loss" in row for row in rows)


class Strangers:
    """Another package with an optimizer of its own."""

    @hookimpl
    def athena_components(self) -> list[Component]:
        return [Component("optimizer", "signum", "torch.optim:SGD", "A stranger's")]


def test_a_strangers_optimizer_joins_by_name(npz, tmp_path, athena_host):
    athena_host.register(_plugin, "athena-optim", "0.1.0", "optim")
    athena_host.register(Strangers(), "athena-signum", "1.0", "signum")
    chosen = recipe(npz, optimizers=("signum", "lookahead(signum)"), options={"signum": {"momentum": 0.9}})
    final, _, _ = execute(chosen, tmp_path / "run")
    assert len(final) == 4


def test_a_training_that_diverges_is_not_chosen_and_ends_nothing(npz, tmp_path, athena_host):
    athena_host.register(_plugin, "athena-optim", "0.1.0", "optim")
    athena_host.register(Strangers(), "athena-signum", "1.0", "signum")
    chosen = recipe(npz, optimizers=("signum",), learning_rates=(0.1, 1e30), steps=40)
    _, rows, text = execute(chosen, tmp_path / "run")
    assert any("validation_loss" not in row for row in rows)
    assert all(row["lr"] == 1e30 for row in rows if "validation_loss" not in row)
    found = choose(tmp_path / "run" / "metrics.jsonl", ("signum",))
    assert {best.lr for best in found["signum"].values()} == {0.1}
    assert "nan" not in text


def test_only_diverging_trainings_still_make_their_pictures(npz, tmp_path, athena_host):
    athena_host.register(_plugin, "athena-optim", "0.1.0", "optim")
    athena_host.register(Strangers(), "athena-signum", "1.0", "signum")
    execute(recipe(npz, optimizers=("signum",), learning_rates=(1e30,), steps=40), tmp_path / "run")
    assert (tmp_path / "run" / "figures" / "loss_batch_8.png").exists()


def test_an_optimizer_has_the_schedule_that_it_needs(npz):
    chosen = recipe(npz, schedules={"adamw": "warmup-constant"})
    weight = torch.nn.Parameter(torch.ones(2))
    rates = {}
    for name in ("adamw", "lamb"):
        optimizer = build_optimizer(name, [weight], lr=1.0, options={})
        schedule = chosen.build_schedule(name, optimizer, 100)
        for _ in range(99):
            optimizer.step()
            schedule.step()
        rates[name] = optimizer.param_groups[0]["lr"]
    assert rates["adamw"] == 1
    assert rates["lamb"] < 0.01


def test_weight_decay_is_of_matrices_alone_and_the_same_for_all(npz):
    split = split_labelled(read_labelled(npz), seed=0, device=CPU)
    for weight_decay in (0.25, None):
        chosen = recipe(npz, weight_decay=weight_decay)
        groups = chosen.begin(Setting("adamw", 8, 0.1, 0), split=split, seed=0).optimizer.param_groups
        assert [group["weight_decay"] for group in groups] == [weight_decay or 0.01, 0.0]


def test_every_parameter_has_the_rate_of_the_grid(npz):
    """Muon's default for what it gives to AdamW is another."""
    split = split_labelled(read_labelled(npz), seed=0, device=CPU)
    for name in ("adamw", "muon"):
        training = recipe(npz).begin(Setting(name, 8, 0.5, 0), split=split, seed=0)
        assert {group["initial_lr"] for group in training.optimizer.param_groups} == {0.5}


def test_larger_batches_take_fewer_steps_for_the_same_examples(npz):
    chosen = recipe(npz, steps=40, batch_sizes=(8, 16, 32))
    assert [chosen.steps_at(batch) * batch for batch in (8, 16, 32)] == [320] * 3


def test_the_recipe_leaves_the_number_of_threads_as_it_was(npz, tmp_path):
    before = torch.get_num_threads()
    execute(recipe(npz, threads=before + 1), tmp_path / "run")
    assert torch.get_num_threads() == before


def test_pictures_show_every_optimizer_with_its_interval(npz, tmp_path):
    execute(recipe(npz), tmp_path / "run")
    found = choose(tmp_path / "run" / "metrics.jsonl", SMALL["optimizers"])
    (axes,) = accuracy_figure(found).axes
    assert [line.get_label() for line in axes.lines] == list(SMALL["optimizers"])
    assert [list(line.get_xdata()) for line in axes.lines] == [[8, 16]] * 2
    assert len(axes.collections) == 2  # a band each
    assert axes.get_xscale() == "log"
    (axes,) = loss_figure(found, batch=8, epochs=2.0).axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[1.0, 2.0]] * 2


def test_one_repeat_has_no_interval(npz, tmp_path):
    _, _, text = execute(recipe(npz, repeats=1), tmp_path / "run")
    assert "intervals" not in text
    found = choose(tmp_path / "run" / "metrics.jsonl", SMALL["optimizers"])
    assert not accuracy_figure(found).axes[0].collections


def test_the_rate_is_chosen_by_validation_accuracy_then_loss_and_never_by_the_test(tmp_path):
    def row(lr, accuracy, loss, test):
        return {"optimizer": 0, "batch": 8, "repeat": 0, "lr": lr, "validation_accuracy": accuracy,
                "validation_loss": loss, "test_accuracy": test}  # fmt: skip

    rows = [
        row(1.0, 0.5, 0.1, 0.9),
        row(2.0, 0.6, 0.3, 0.1),
        row(3.0, 0.6, 0.2, 0.2),
        row(4.0, 0.5, 0.0, 1.0),
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    best = choose(tmp_path / "metrics.jsonl", ("adamw",))["adamw"][8]
    assert (best.lr, best.accuracy.tolist(), best.at_edge) == (3.0, [0.2], False)


# Names.


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("adamw", ["adamw"]),
        ("lookahead(adamw)", ["lookahead", "adamw"]),
        ("a(b( c ))", ["a", "b", "c"]),
        ("athena-optim/sam(athena-optim/adamw)", ["athena-optim/sam", "athena-optim/adamw"]),
    ],
)
def test_names_are_read_outermost_first(text, names):
    assert names_in(text) == names


@pytest.mark.parametrize("text", ["", "a(", "a()", "(a)", "a(b", "a)b(", "a(b)c", "a b)"])
def test_malformed_names_are_refused(text):
    with pytest.raises(AthenaError, match="every parenthesis closed"):
        names_in(text)


def test_wrappers_hold_what_is_inside_them():
    optimizer: Any = build_optimizer(
        "lookahead(sam(adamw))",
        [torch.nn.Parameter(torch.ones(2))],
        lr=0.5,
        options={"lookahead": {"k": 7}, "adamw": {"eps": 1e-4}},
    )
    assert [type(o).__name__ for o in (optimizer, optimizer.optimizer, optimizer.optimizer.optimizer)] == [
        "Lookahead",
        "SAM",
        "AdamW",
    ]
    assert optimizer.param_groups[0]["eps"] == 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizers": ("lmab",)}, r"unknown optimizer `lmab`. Did you mean `lamb`\?"),
        (
            {"optimizers": ("lokahead(adamw)",)},
            r"unknown optimizer-wrapper `lokahead`. Did you mean `lookahead`\?",
        ),
        ({"optimizers": ("lookahead",)}, r"`lookahead` is a wrapper .* Write lookahead\(adamw\)"),
        (
            {"optimizers": ("adamw(lookahead)",)},
            r"`lookahead` is a wrapper .* got 'adamw\(lookahead\)'. Write lookahead\(adamw\)",
        ),
        (
            {"optimizers": ("athena-optim/sam",)},
            r"`athena-optim/sam` is a wrapper .* Write athena-optim/sam\(adamw\)",
        ),
        (
            {"optimizers": ("lamb(adamw)",)},
            r"`lamb` is an optimizer and must be innermost; got 'lamb\(adamw\)'. Write lookahead\(lamb\)",
        ),
        (
            {"optimizers": ("lookahead(lookahead(adamw))",)},
            "optimizer-wrapper `lookahead`: `optimizer` must have no Lookahead inside; got one. Keep one",
        ),
        ({"optimizers": ("adamw", "adamw")}, "`optimizers` must hold each value once; got adamw twice"),
        ({"optimizers": ()}, "`optimizers` must hold at least one"),
        ({"batch_sizes": (8, 8)}, "`batch_sizes` must hold each value once"),
        ({"batch_sizes": (0, 8)}, "`batch_sizes` must be at least 1; got 0"),
        ({"batch_sizes": (8, 61), "steps": 80}, "`batch_sizes` must be at most 60"),
        (
            {"batch_sizes": (8, 64)},
            "`steps` must leave batches of 64 a step for each of 2 evaluations; 8 leave 1",
        ),
        ({"learning_rates": (-1.0,)}, "optimizer `adamw`: .*-1.0"),
        ({"repeats": 0}, "`repeats` must be at least 1"),
        ({"threads": 0}, "`threads` must be at least 1"),
        ({"weight_decay": -1.0}, "`weight_decay` must be at least 0"),
        ({"options": {"lmab": {"eps": 1.0}}}, r"unknown optimizer `lmab`. Did you mean `lamb`\?"),
        ({"options": {"adamw": {"lr": 1.0}}}, "adamw's `lr` comes from `learning_rates`"),
        ({"options": {"adamw": {"esp": 1.0}}}, r"unknown option `esp`. Did you mean `eps`\?"),
        ({"options": {"lookahead": {"k": 0}}}, "optimizer-wrapper `lookahead`: .*`k`"),
        ({"schedules": {"adam": "wsd"}}, r"unknown optimizer `adam`. Did you mean `adamw`\?"),
        ({"schedules": {"lookahead": "wsd"}}, "`schedules` must name optimizers; `lookahead` is a wrapper"),
        ({"schedules": {"adamw": "warmup-cosin"}}, r"unknown schedule `warmup-cosin`. Did you mean"),
        ({"schedule": Configured("schedule", "wsd", {"warmup_steps": 2.0})}, "schedule `wsd`: "),
        (
            {"schedule": Configured("schedule", "wsd", {"warmup_steps": "2"})},
            "schedule `wsd`: `warmup_steps`",
        ),
    ],
)
def test_bad_options_are_one_line_before_anything_is_trained(npz, tmp_path, options, message):
    with pytest.raises(AthenaError, match=message) as caught:
        execute(recipe(npz, **options), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# Data.


def csv_text(header: str, count: int = 30, label: str = "{}") -> str:
    features, labels = images(count)
    rows = [
        ",".join(map(str, pixels.ravel())) + "," + label.format(number)
        for pixels, number in zip(features, labels, strict=True)
    ]
    return "\n".join([header, *rows]) + "\n"


HEADER = ",".join(f"pixel_{i}_{j}" for i in range(8) for j in range(8)) + ",label"


def test_an_npz_and_a_csv_of_the_same_examples_are_the_same(npz, tmp_path):
    (tmp_path / "images.csv").write_text(csv_text(HEADER, 100))
    first, second = read_labelled(npz), read_labelled(tmp_path / "images.csv")
    assert np.array_equal(first.features, second.features)
    assert np.array_equal(first.labels, second.labels)
    assert first.features.shape == (100, 64)


def test_labels_may_be_texts_and_their_column_anywhere(tmp_path):
    rows = [f"{kind},{x}.5,-1e3" for x, kind in enumerate(["setosa", "virginica"] * 6)]
    (tmp_path / "a.csv").write_text("\ufefflabel,width,height\r\n" + "\r\n".join(rows) + "\r\n\r\n", "utf-8")
    data = read_labelled(tmp_path / "a.csv")
    assert data.labels.tolist() == [0, 1] * 6
    assert data.features[:2].tolist() == [[0.5, -1000.0], [1.5, -1000.0]]
    (tmp_path / "b.csv").write_text(" label, width, height\n" + "\n".join(rows))
    assert np.array_equal(read_labelled(tmp_path / "b.csv").features, data.features)
    np.savez(tmp_path / "c.npz", features=data.features, labels=np.array(["setosa", "virginica"] * 6))
    assert read_labelled(tmp_path / "c.npz").labels.tolist() == [0, 1] * 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("1,2,3\n4,5,6\n", "line 1: must name the columns; got numbers"),
        (
            "a,b,c\n" + "1,2,3\n4,5,6\n" * 30,
            "line 1: must name a column `label`; got a, b, c. Rename the one that holds the classes",
        ),
        ("a,b,c\n1,2,3\n4,5,6\n", "must name a column `label`; got a, b, c"),
        (",".join(f"c{i}" for i in range(12)) + "\n", "got c0, .*, c9 and 2 more. Rename"),
        ("a,label\n1,0\n2\n", "line 3: must have 2 fields; got 1"),
        ("a,b,label\n1,2,0\n\n1,two,0\n", "line 4: column `b` must be a number; got 'two'"),
        ("a,label\n" + "1,0\n" * 12, "at least 10 examples of at least 2 classes; got 12 of 1"),
        ("a,label\n1,0\n2,1\n", "at least 10 examples of at least 2 classes; got 2 of 2"),
        ("a,label\n", "`features` must be numbers of shape"),
        ("label\n" + "x\ny\n" * 6, "`features` must be numbers of shape"),
        ("a,b,label\n" + "1,2,0\n" * 6 + "1,nan,1\n" * 6, "got nan in example 7, feature 2 \\(6 such\\)"),
        (b"a,label\n\xff\xfe,1\n", "must be comma-separated text in UTF-8"),
    ],
)
def test_a_malformed_csv_is_refused_with_its_line(tmp_path, content, message):
    path = tmp_path / "data.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AthenaError, match=message) as caught:
        read_labelled(path)
    assert "\n" not in str(caught.value)


def savez(**arrays: Any) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"not a zip"), "must be an .npz archive"),
        (savez(features=np.ones((12, 2))), "`labels` is missing among \\['features'\\]"),
        (savez(x=np.ones((12, 2)), labels=np.ones(12)), "`features` is missing"),
        (savez(features=np.ones((12, 2)), labels=np.arange(11)), "`labels` must be 12 whole numbers"),
        (savez(features=np.ones((12, 2)), labels=np.ones(12)), "`labels` must be 12 whole numbers"),
        (savez(features=np.ones((12, 2)), labels=np.ones((12, 1), int)), "`labels` must be 12 whole numbers"),
        (savez(features=np.ones(12), labels=np.arange(12)), "`features` must be numbers of shape"),
        (savez(features=np.ones((12, 0)), labels=np.arange(12)), "`features` must be numbers of shape"),
        (savez(features=np.ones((0, 2)), labels=np.arange(0)), "`features` must be numbers of shape"),
        (savez(features=np.full((12, 2), "a"), labels=np.arange(12)), "`features` must be numbers of shape"),
        (savez(features=np.full((12, 2), np.inf), labels=np.arange(12)), "features must be finite; got inf"),
        (
            lambda path: np.savez(path, features=np.array([{}], object), labels=np.arange(1)),
            "must be a whole .npz archive of plain arrays",
        ),
    ],
)
def test_a_malformed_npz_is_refused(tmp_path, write, message):
    write(tmp_path / "data.npz")
    with pytest.raises(AthenaError, match=message) as caught:
        read_labelled(tmp_path / "data.npz")
    assert "\n" not in str(caught.value)


def test_a_damaged_npz_is_refused(npz):
    content = bytearray(npz.read_bytes())
    content[200:300] = bytes(100)
    npz.write_bytes(content)
    with pytest.raises(AthenaError, match=r"must be a whole \.npz archive"):
        read_labelled(npz)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.csv", "cannot read .*absent.csv: No such file"),
        ("absent.npz", "cannot read .*absent.npz: No such file"),
        ("data.txt", "must be digits, spirals, or a file .npz or .csv"),
        ("digts", "must be digits, spirals, or a file .npz or .csv; got 'digts'"),
    ],
)
def test_other_data_is_refused(name, message):
    with pytest.raises(AthenaError, match=message):
        read_labelled(Path(name))


def test_digits_without_scikit_learn_name_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(AthenaError, match=r"pip install 'athena-optim\[recipes\]'"):
        execute(Optimizers(**{**SMALL, "data": "digits"}), tmp_path / "run")


def test_the_split_is_of_all_examples_once_and_another_with_another_seed():
    data = read_labelled("spirals")
    parts = split_labelled(data, seed=0, device=CPU)
    features = torch.cat([part.features for part in parts[:3]])
    assert len(torch.unique(features, dim=0)) == len(torch.unique(torch.from_numpy(data.features), dim=0))
    other = split_labelled(data, seed=1, device=CPU)
    assert not torch.equal(parts.test.labels, other.test.labels)


def test_features_are_scaled_by_what_is_trained_on_and_a_constant_one_stays_finite(npz):
    data = read_labelled(npz)
    data.features[:, 0] = 7
    split = split_labelled(data, seed=0, device=CPU)
    torch.testing.assert_close(split.train.features.mean(dim=0), torch.zeros(64), rtol=0, atol=1e-6)
    torch.testing.assert_close(split.train.features[:, 1:].std(dim=0, correction=0), torch.ones(63))
    assert split.train.features[:, 0].abs().max() == 0
    assert split.test.features.isfinite().all()


@pytest.mark.parametrize("size", [1, 3, 10])
def test_an_order_passes_over_all_examples_once_an_epoch_from_any_place(size):
    order = Order(10, seed=1)
    taken = torch.cat([order.take(start, size) for start in range(0, 30, size)])[:30]
    for epoch in taken.split(10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert not torch.equal(taken[:10], taken[10:20])
    assert torch.equal(
        Order(10, seed=1).take(17, 5), torch.cat([order.take(place, 1) for place in range(17, 22)])
    )

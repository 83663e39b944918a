"""The main job, small: a transformer trained from parts that the registry found by name."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Athena = Callable[..., "CompletedProcess[str]"]
TINY = (
    *("--steps", "4", "--width", "32", "--heads", "2", "--layers", "1", "--batch", "2"),
    *("--context", "64", "--eval_every", "2", "--sample_length", "8"),
)


def only_run(folder: Path) -> Path:
    (run,) = folder.iterdir()
    return run


def test_lm_trains_and_leaves_all_it_promises(athena: Athena, text: Path, tmp_path: Path) -> None:
    done = athena("run", "lm", *TINY, "--data", text, "--out", "runs")
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path / "runs")
    for words in ("before training", "after training", "unigram entropy", "xz -9e", str(run.name), "again"):
        assert words in done.stdout
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    assert all(next(iter(row)) == "step" for row in metrics)
    final = json.loads((run / "summary.json").read_text())["metrics"]
    assert 0 < final["heldout_bits_per_byte"] < 9
    assert 3 < final["unigram_entropy"] < 8
    assert final["xz_given_training_text"] < final["xz_alone"]
    assert (run / "figures" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_ops_of_installed_packages_are_listed(athena: Athena) -> None:
    done = athena("kernels")
    assert done.returncode == 0, done.stderr
    listed = {words[0]: words[1:3] for words in map(str.split, done.stdout.splitlines())}
    assert listed["athena_nn::kv_cache_update"] == ["any", "reference"]
    assert listed["athena_nn::rms_norm"] == ["xpu", "kernel" if find_spec("triton") else "reference"]


def test_every_component_of_lm_is_chosen_by_name(athena: Athena, text: Path, tmp_path: Path) -> None:
    chosen = ("--positions", "none", "--optimizer.lr", "0.01", "--schedule.min_ratio", "0.5", "--seed", "3")
    chosen += ("--norm", "layer", "--norm.eps", "1e-6", "--activation", "gelu", "--kv_heads", "1")
    done = athena("run", "lm", *TINY, "--data", text, "--out", "runs", *chosen)
    assert done.returncode == 0, done.stderr
    config = tomllib.loads((only_run(tmp_path / "runs") / "config.toml").read_text())
    assert config["positions"] == {"name": "none"}
    assert (config["norm"]["name"], config["norm"]["eps"]) == ("layer", 1e-6)
    assert (config["activation"]["name"], config["kv_heads"]) == ("gelu", 1)
    assert (config["optimizer"]["name"], config["optimizer"]["lr"]) == ("adamw", 0.01)
    assert (config["schedule"]["name"], config["schedule"]["min_ratio"]) == ("warmup-cosine", 0.5)
    assert config["seed"] == 3


def test_a_runs_configuration_gives_the_same_run(athena: Athena, text: Path, tmp_path: Path) -> None:
    athena("run", "lm", *TINY, "--data", text, "--out", "a")
    first = only_run(tmp_path / "a")
    done = athena("run", "--config", first / "config.toml", "--out", "b")
    assert done.returncode == 0, done.stderr
    again = only_run(tmp_path / "b")
    assert (again / "config.toml").read_text() == (first / "config.toml").read_text()
    assert (again / "metrics.jsonl").read_bytes() == (first / "metrics.jsonl").read_bytes()


def test_seeds_are_reported_together(athena: Athena, text: Path, tmp_path: Path) -> None:
    athena("run", "lm", *TINY, "--data", text, "--out", "runs", "--seeds", "0:2")
    done = athena("report", only_run(tmp_path / "runs"), "--out", "report")
    assert done.returncode == 0, done.stderr
    assert "heldout_bits_per_byte" in done.stdout
    assert list((tmp_path / "report").glob("*.png"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"too short", "must hold more than one context of 64 bytes"),
    ],
)
def test_data_that_cannot_be_used_is_one_line_and_makes_no_model(
    athena: Athena, tmp_path: Path, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "data").write_bytes(content)
    done = athena("run", "lm", *TINY, "--data", "data", "--out", "runs")
    assert done.returncode == 2
    assert done.stderr.startswith("athena: `data` ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_without_text_is_one_line(athena: Athena, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "picture").write_bytes(b"\x89PNG\0\0")
    done = athena("run", "lm", *TINY, "--data", "data", "--out", "runs")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "none is UTF-8" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--optimizer", "adamv"), "unknown optimizer `adamv`. Did you mean `adamw`?"),
        (("--optimizer.learning", "1"), "unknown option `--optimizer.learning`."),
        (("--positions", "rotray"), "Did you mean `rotary`?"),
        (("--heads", "3"), "`heads` must divide `width` = 32; got 3."),
        (("--heads", "32"), "rotary"),
        (("--kv_heads", "3"), "`kv_heads` must divide `heads` = 2; got 3."),
        (("--norm", "batch"), "unknown norm `batch`"),
        (("--optimizer.lr", "nan"), "lr"),
        (("--optimizer.fused", "true", "--optimizer.foreach", "true"), "`fused` and `foreach`"),
        (("--schedule.warmup_steps", "9"), "warmup_steps"),
    ],
)
def test_a_wrong_option_is_one_line(athena: Athena, text: Path, options: tuple[str, ...], says: str) -> None:
    done = athena("run", "lm", *TINY, "--data", text, *options)
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("athena: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr

"""An encoder-decoder trained from the command line, from parts of two packages."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Athena = Callable[..., "CompletedProcess[str]"]
TINY = (
    *("--steps", "4", "--width", "32", "--heads", "2", "--layers", "1", "--batch", "4"),
    *("--shortest", "2", "--longest", "4", "--heldout", "3", "--eval_every", "2"),
)


def only_run(folder: Path) -> Path:
    (run,) = folder.iterdir()
    return run


def test_seq2seq_trains_and_leaves_all_it_promises(athena: Athena, tmp_path: Path) -> None:
    done = athena("run", "seq2seq", *TINY, "--out", "runs")
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path / "runs")
    for words in ("9 strings held out", "length", "reverse", "sort", str(run.name), "again"):
        assert words in done.stdout
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    assert [row["step"] for row in metrics if "exact_match" in row] == [2]
    final = json.loads((run / "summary.json").read_text())["metrics"]
    assert list(final) == ["exact_match", "exact_match_reverse", "exact_match_sort"]
    for name in ("learning_curve", "cross_attention"):
        assert (run / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_every_component_of_seq2seq_is_chosen_by_name(athena: Athena, tmp_path: Path) -> None:
    chosen = ("--positions", "relative-bias", "--positions.num_buckets", "8", "--norm", "layer")
    chosen += ("--activation", "gelu", "--norm_first", "false", "--optimizer.lr", "0.01")
    done = athena("run", "seq2seq", *TINY, "--out", "runs", *chosen)
    assert done.returncode == 0, done.stderr
    config = tomllib.loads((only_run(tmp_path / "runs") / "config.toml").read_text())
    assert (config["positions"]["name"], config["positions"]["num_buckets"]) == ("relative-bias", 8)
    assert "bidirectional" not in config["positions"]
    assert (config["norm"]["name"], config["activation"]["name"]) == ("layer", "gelu")
    assert config["norm_first"] is False


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--shortest", "5"), "`shortest` must be at least 2, and at most `longest`; got 5 and 4."),
        (("--positions.bidirectional", "true"), "unknown option `--positions.bidirectional`."),
        (("--positions", "relative-bias", "--positions.num_buckets", "7"), "`num_buckets`"),
        (("--activation", "swigul"), "Did you mean `swiglu`?"),
        (("--dtype", "float16"), "dtype"),
    ],
)
def test_a_wrong_option_is_one_line(athena: Athena, options: tuple[str, ...], says: str) -> None:
    done = athena("run", "seq2seq", *TINY, *options)
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("athena: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr

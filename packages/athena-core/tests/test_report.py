"""`athena report` over small run folders: what it shows, and what it refuses to average."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from athena_core import AthenaError, _toml, stats
from athena_core._report import report

STEPS = (5, 10, 15)


def make_run(folder: Path, seed: int, *, optimizer: str = "lamb", **changes) -> Path:
    """A finished run as `athena_core.Run` leaves it; lamb ends 0.5 below adamw on every seed."""
    final = {"lamb": 1.5, "adamw": 2.0}[optimizer] + 0.01 * seed**2
    options = {"name": optimizer, "lr": 0.002} | ({"trust_clip": None} if optimizer == "lamb" else {})
    config = {"recipe": "lm", "device": "cpu", "steps": 15, "optimizer": options, "seed": seed}
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(_toml.dumps(config | changes))
    lines = [
        {"step": step, "loss": final + 1 / step, **({"bpb": final} if step == 15 else {})} for step in STEPS
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({"status": "complete", "metrics": {"bpb": final}}))
    return folder


@pytest.fixture(name="sweep")
def _sweep(tmp_path) -> Path:
    """Two optimizers on four seeds, as two calls of ``athena run --seeds 0:4`` lay them out."""
    for optimizer in ("lamb", "adamw"):
        for seed in range(4):
            make_run(tmp_path / "runs" / f"lm-{optimizer}" / f"seed-{seed}", seed, optimizer=optimizer)
    return tmp_path / "runs"


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in text.splitlines()
        if line[:1] == "|"
    ]


def test_groups_are_labelled_by_what_differs_and_hold_every_seed(sweep, tmp_path):
    text = report([sweep], tmp_path / "report")
    table = {row[1]: row for row in rows(text) if len(row) == 5 and row[0] == "bpb" and row[2] == "4"}
    assert set(table) == {"optimizer=adamw", "optimizer=lamb"}
    scores = 2.0 + 0.01 * np.arange(4) ** 2
    interval = stats.bootstrap_interval(scores, rng=0)
    cell = f"{interval.estimate:.5g} [{interval.low:.5g}, {interval.high:.5g}]"
    assert table["optimizer=adamw"][2:] == ["4", f"{scores.mean():.5g}", cell]


def test_differences_are_paired_by_seed(sweep, tmp_path):
    """Each seed shifts both methods alike: paired, the difference is exact."""
    text = report([sweep], tmp_path / "report")
    assert ["bpb", "optimizer=adamw", "optimizer=lamb", "0.5 [0.5, 0.5]", "1 [1, 1]"] in rows(text)


def test_pictures_are_written_and_named_in_the_text(sweep, tmp_path):
    out = tmp_path / "new" / "report"
    text = report([sweep], out)
    names = ["curve-bpb.png", "curve-loss.png", "final-bpb.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert all(str(out / name) in text for name in names)
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_report_is_the_same_each_time_and_in_any_order(sweep, tmp_path):
    folders = sorted(path.parent for path in sweep.rglob("config.toml"))
    first = report(folders, tmp_path / "report")
    assert report(folders, tmp_path / "report") == first
    assert report([*folders[:4][::-1], *folders[4:][::-1], sweep], tmp_path / "report") == first


def test_metric_with_a_slash_stays_inside_the_folder(tmp_path):
    run = make_run(tmp_path / "a", 0)
    (run / "metrics.jsonl").write_text('{"step": 1, "../held-out/loss": 2.0}\n')
    report([run], tmp_path / "report")
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["curve-..%2Fheld-out%2Floss.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "report"]


def test_an_option_that_looks_like_a_formula_is_only_text(tmp_path):
    for number, pattern in enumerate(["^a$|b{$", "c"]):
        for seed in range(2):
            make_run(tmp_path / f"{number}-{seed}", seed, pattern=pattern)
    text = report([tmp_path], tmp_path / "report")
    assert "pattern=^a$|b{$" in text
    assert (tmp_path / "report" / "final-bpb.png").exists()


def test_one_seed_says_that_no_interval_can_be_given(tmp_path):
    text = report(
        [make_run(tmp_path / "a", 3), make_run(tmp_path / "b", 3, optimizer="adamw")], tmp_path / "out"
    )
    assert "One seed: no interval can be given." in text
    assert [row[2:] for row in rows(text)[2:]] == [
        ["1", "1.59", "1.59 [no interval]"],
        ["1", "2.09", "2.09 [no interval]"],
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["curve-bpb.png", "curve-loss.png"]


def test_one_configuration_is_labelled_by_its_recipe(tmp_path):
    text = report([make_run(tmp_path / f"seed-{seed}", seed) for seed in range(2)], tmp_path / "out")
    assert rows(text)[2][:3] == ["bpb", "lm", "2"]
    assert "With 2 seeds the intervals are too short" in text
    assert "P(A > B)" not in text


def test_option_that_one_configuration_lacks_tells_them_apart_if_nothing_else_does(tmp_path):
    plain, extended = make_run(tmp_path / "a", 0), make_run(tmp_path / "b", 0, warmup=5)
    assert [row[1] for row in rows(report([plain, extended], tmp_path / "out"))[2:]] == ["lm", "warmup=5"]


def test_half_made_folder_of_a_killed_run_is_not_one(tmp_path):
    make_run(tmp_path / "runs" / "a", 0)
    half = tmp_path / "runs" / ".b-x1y2z3"
    half.mkdir()
    (half / "config.toml").write_text("seed = 1\n")
    assert rows(report([tmp_path / "runs"], tmp_path / "out"))[2][2] == "1"


def test_long_curves_are_thinned_and_keep_both_ends(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("athena_core.figures.learning_curves", lambda curves, **_: drawn.update(curves))
    monkeypatch.setattr("athena_core.figures.save", lambda figure, path: None)
    runs = [make_run(tmp_path / str(seed), seed) for seed in range(2)]
    for run in runs:
        lines = [json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(1, 3001)]
        (run / "metrics.jsonl").write_text("".join(lines))
    report(runs, tmp_path / "out")
    steps, band = drawn["lm"]
    assert len(steps) == len(band.low) == 500
    assert (steps[0], steps[-1]) == (1, 3000)
    np.testing.assert_allclose(band.estimate, 1 / steps)


def test_without_matplotlib_the_tables_remain(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = report([make_run(tmp_path / "a", 0)], tmp_path / "out")
    assert rows(text)[2][:2] == ["bpb", "lm"]
    assert "pip install 'athena-core[plot]'" in text
    assert not (tmp_path / "out").exists()


# What is refused: each in one line that names the folder.


def write(name: str, text: str):
    return lambda run: (run / name).write_text(text)


DAMAGE = {
    "unfinished": (lambda run: (run / "summary.json").unlink(), r"not complete but without summary\.json"),
    "interrupted": (write("summary.json", '{"status": "interrupted"}'), "not complete but interrupted"),
    "failed": (write("summary.json", '{"status": "failed", "reason": "x"}'), "not complete but failed"),
    "summary cut short": (write("summary.json", '{"status": "comp'), "is damaged"),
    "summary of another shape": (write("summary.json", "[]"), "is damaged"),
    "no final metrics": (
        write("summary.json", '{"status": "complete", "metrics": {}}'),
        "at least one; got {}",
    ),
    "final metric not finite": (
        write("summary.json", '{"status": "complete", "metrics": {"bpb": NaN}}'),
        "finite",
    ),
    "final metric too large": (
        write("summary.json", '{"status": "complete", "metrics": {"bpb": 1' + 400 * "0" + "}}"),
        "finite",
    ),
    "no metrics": (lambda run: (run / "metrics.jsonl").unlink(), r"not|without metrics\.jsonl"),
    "line cut short": (write("metrics.jsonl", '{"step": 1, "loss": 1}\n{"step": 2, "lo'), "line 2: must be"),
    "line without step": (
        write("metrics.jsonl", '{"loss": 1}\n'),
        "line 1: must be an object with a growing",
    ),
    "line not an object": (write("metrics.jsonl", "[1]\n"), "line 1: must be"),
    "metric not finite": (write("metrics.jsonl", '{"step": 1, "loss": null}\n'), "line 1: must be .* finite"),
    "step twice": (
        write("metrics.jsonl", '{"step": 1, "loss": 2}\n{"step": 1, "loss": 2}\n'),
        "line 2: must",
    ),
    "bytes": (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\xfe"), "is damaged"),
    "steps missing": (
        write("metrics.jsonl", '{"step": 5, "loss": 1}\n{"step": 15, "bpb": 1}\n'),
        "other steps",
    ),
    "metric missing": (write("metrics.jsonl", '{"step": 15, "bpb": 1}\n'), "`loss` is logged at other steps"),
    "other final metrics": (
        write("summary.json", '{"status": "complete", "metrics": {"x": 1}}'),
        "metric `bpb`",
    ),
    "no seed": (
        write("config.toml", 'recipe = "lm"\n'),
        "must name a `recipe` and a whole `seed`; got None",
    ),
    "configuration not TOML": (write("config.toml", "seed = \n"), "not valid TOML"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_run_is_named_and_never_left_out(damage, message, tmp_path):
    runs = [make_run(tmp_path / "runs" / f"seed-{seed}", seed) for seed in range(3)]
    damage(runs[2])
    with pytest.raises(AthenaError, match=message) as caught:
        report([tmp_path / "runs"], tmp_path / "out")
    assert str(runs[2]) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_seed_that_one_configuration_lacks_is_named(sweep, tmp_path):
    shutil.rmtree(sweep / "lm-adamw" / "seed-2")
    with pytest.raises(AthenaError, match=r"lm-adamw.*other configurations have the seeds 2 too\. Run them"):
        report([sweep], tmp_path / "out")


def test_same_seed_twice_is_refused(sweep, tmp_path):
    shutil.copytree(sweep / "lm-lamb" / "seed-1", sweep / "again")
    with pytest.raises(AthenaError, match=r"again|seed-1.*has the same configuration and seed"):
        report([sweep], tmp_path / "out")


def test_folder_without_runs_and_absent_folder_are_named(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(AthenaError, match=r"no run there; a run's folder holds `config\.toml`") as caught:
            report([folder], tmp_path / "out")
        assert str(folder) in str(caught.value)


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AthenaError, match=r"file.out: no pictures can be written: .*Choose `--out`"):
        report([make_run(tmp_path / "a", 0)], tmp_path / "file" / "out")

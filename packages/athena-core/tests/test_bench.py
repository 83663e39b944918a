"""What the benchmarks share: rows with ratios, measures taken in turn, a table and JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from athena_core.testing import bench


def test_the_ratio_is_to_the_best_peer_and_the_share_to_the_limit() -> None:
    row = bench.row("step", ours=4.0, peers={"slow": 8.0, "quick": 2.0}, limit=1.0, unit="ms", tensors=97)
    assert (row["ratio"], row["share"], row["tensors"]) == (0.5, 0.25, 97)
    assert list(row)[:3] == ["case", "ours", "peers"]


def test_a_row_without_a_limit_claims_no_share() -> None:
    assert not {"limit", "share"} & bench.row("step", ours=4.0, peers={"bar": 5.0}, unit="ms").keys()


def test_measures_take_turns() -> None:
    calls: list[str] = []
    values = {"ours": iter([1.0, 9.0, 2.0]), "peer": iter([5.0, 3.0, 4.0])}

    def measure(name: str) -> float:
        calls.append(name)
        return next(values[name])

    assert bench.medians(3, lambda: measure("ours"), lambda: measure("peer")) == [2.0, 4.0]
    assert calls == ["ours", "peer"] * 3


def test_a_report_has_a_column_a_peer_and_its_json_is_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        bench.row("small", ours=0.25, peers={"torch": 0.5}, unit="ms"),
        bench.row("large", ours=4000.0, peers={"torch": 2000.0, "other": 1000.0}, unit="ms", heavy=[]),
    ]
    bench.report(rows, tmp_path / "rows.json")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["case", "ours", "torch", "ratio", "unit", "other", "heavy"]
    assert lines[0].split() == ["small", "0.25", "0.5", "2", "ms"]
    assert lines[1].split() == ["large", "4,000", "2,000", "0.25", "ms", "1,000", "none"]
    assert json.loads((tmp_path / "rows.json").read_text()) == rows


def test_the_json_is_named_after_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks/bench_step.py"])
    options = bench.parser("How long.\n\nMore.", repeats=7).parse_args([])
    assert (options.repeats, options.json) == (7, Path("bench_step.json"))


def test_a_benchmark_of_torch_is_run_with_its_options_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(*, repeats: int, compiled: bool) -> Iterator[dict[str, Any]]:
        case = f"{repeats}, {compiled}, {torch.get_num_threads()}"
        yield bench.row(case, ours=1.0, peers={"torch": 2.0}, unit="s")

    options = bench.parser("How long.", repeats=7)
    options.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    file, threads = tmp_path / "rows.json", torch.get_num_threads()
    monkeypatch.setattr("sys.argv", ["bench.py", "--no-compiled", "--threads=3", f"--json={file}"])
    try:
        bench.run(options, rows)
    finally:
        torch.set_num_threads(threads)
    assert "7, False, 3" in capsys.readouterr().out
    assert json.loads(file.read_text())[0]["case"] == "7, False, 3"

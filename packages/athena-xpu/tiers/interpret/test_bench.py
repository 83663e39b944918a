"""The script that measures all kernels on a GPU runs through, and its verdicts are right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import bench_kernels
import pytest
import torch
from device_clock import Clock
from drawn import KERNELS
from kernel_bench import Bench

from athena_core import kernels_disabled
from athena_core.testing._kernels import offered
from athena_nn import swiglu


def test_every_row_runs(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    command = [sys.executable, bench_kernels.__file__, "--device=cpu", "--smoke", f"--json={file}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(file.read_text("utf-8"))
    assert {one["verdict"] for one in rows} == {"measured", "not judged", "no bar"}
    cases = " ".join(one["case"] for one in rows)
    assert not [op for op in KERNELS if op.partition("::")[2] not in cases]


def test_one_op_alone() -> None:
    with offered(KERNELS["athena_nn::geglu"]):
        found = bench_kernels.rows(Bench(torch.device("cpu"), repeats=1, smoke=True), "geglu")
        assert [one["case"].partition(",")[0] for one in found] == ["copy", *["geglu"] * 6]


def test_what_fails_is_told_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "check", lambda *_: 1 / 0)
    with kernels_disabled():
        found = bench_kernels.rows(Bench(torch.device("cpu"), repeats=1, smoke=True), "geglu")
        verdicts = [one["verdict"] for one in found]
    assert verdicts == ["measured", *["error: ZeroDivisionError: division by zero"] * 3]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="here it would measure")
@pytest.mark.parametrize("options", [(), ("--device=cpu",)])
def test_without_a_gpu_nothing_is_measured(
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "rows.json"
    monkeypatch.setattr("sys.argv", ["bench_kernels.py", *options, f"--json={file}"])
    assert bench_kernels.main() == 0
    assert capsys.readouterr().out.startswith("not measured:")
    assert not file.exists()


class Told(Clock):
    """Tells the seconds that it is given."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        super().__init__(torch.device("cpu"))
        self.seconds = seconds

    def medians(self, repeats: int, functions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        return {name: self.seconds[name] for name in functions}


def test_a_peer_that_fails_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(torch.device("cpu"), repeats=1, smoke=True)
    calls = {"ours": lambda: 1, "Liger": lambda: 1 / 0, "compiled": lambda: 2}
    assert bench.usable(calls) == {"ours": 1, "compiled": 2}
    assert "Liger is left out: ZeroDivisionError" in capsys.readouterr().err
    assert bench.timed("case", calls, share=0.85, ratios={"Liger": 1.0})["peers"].keys() == {"compiled"}
    with pytest.raises(ZeroDivisionError):
        bench.usable({"ours": lambda: 1 / 0})


def judged(*, ours: float = 1.0, compiled: float = 1.0, liger: float = 1.0) -> str:
    """Of 900 bytes where a copy moves 1000 a second."""
    bench = Bench(torch.device("cpu"), repeats=1, smoke=False)
    bench.bandwidth, bench.peak = 1000.0, 1200.0
    bench.clock = Told({"ours": ours, "compiled": compiled, "Liger": liger, "reference": 5.0})
    functions = dict.fromkeys(bench.clock.seconds, lambda: None)
    ratios = {"compiled": 1.0, "Liger": 1.0, "absent": 1.0}
    return bench.timed("case", functions, moved=900, share=0.85, ratios=ratios)["verdict"]


def test_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "copy_bandwidth", lambda *_: 1000.0)
    assert judged() == "pass"
    assert judged(compiled=0.98) == "pass"  # noise
    assert judged(compiled=0.9) == "missed: compiled"
    assert judged(ours=1.1, liger=1.0) == "missed: bandwidth, compiled, Liger"


def test_a_time_above_the_peak_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "copy_bandwidth", lambda *_: 1000.0)
    with pytest.raises(RuntimeError, match=r"rejected: .* above the peak"):
        judged(ours=0.7)


def test_a_case_whose_reference_would_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "copy_bandwidth", lambda *_: 1000.0)
    bench = Bench(torch.device("cpu"), repeats=1, smoke=True)
    with pytest.raises(RuntimeError, match="the reference would run"):
        bench.kernel("athena_nn::swiglu", torch.zeros(2, 4, dtype=torch.float64))
    assert swiglu(torch.zeros(4)).tolist() == [0.0, 0.0]

"""Runs: folders, metrics, state, signals, numbers that are not finite."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from rich.console import Console

from athena_core import (
    AthenaError,
    Component,
    Interrupted,
    NotFinite,
    PluginHost,
    Run,
    Tracker,
    hookimpl,
    load_checkpoint,
    save_checkpoint,
)

QUIET = Console(quiet=True)


def make(folder: Path, **options: Any) -> Run:
    return Run(folder, **{"device": "cpu", "console": QUIET, **options})


def draw() -> float:
    """A number from every global generator."""
    return random.random() + np.random.rand() + torch.rand(()).item()


def train(run: Run, total: int, stop: int | None = None, number: int = signal.SIGINT) -> dict[str, float]:
    """A loop whose metrics depend on the model, the optimizer's momentum and every generator."""
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for step in run.steps(total, model=model, optimizer=optimizer):
        loss = model(torch.randn(4, 3)).square().mean() + draw()
        optimizer.zero_grad()
        loss.backward()
        run.check_finite(step, model, loss)
        optimizer.step()
        run.log(step, loss=loss, lr=0.1)
        if step == stop:
            os.kill(os.getpid(), number)
    return {"loss": loss.item()}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_a_runs_folder_holds_what_it_should(tmp_path: Path) -> None:
    with make(tmp_path / "run", config={"recipe": "x", "data": None}) as run:
        run.finish(train(run, 3))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {
        "config.toml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "figures",
        "summary.json",
    }
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert summary(tmp_path / "run")["status"] == "complete"
    assert [next(iter(line)) for line in lines(tmp_path / "run")] == ["step"] * 3


def test_equal_seeds_are_equal_and_others_are_not(tmp_path: Path) -> None:
    first, again, other = (_metrics(tmp_path / name, seed) for name, seed in (("a", 7), ("b", 7), ("c", 8)))
    assert first == again
    assert first != other


def _metrics(folder: Path, seed: int) -> bytes:
    with make(folder, seed=seed) as run:
        run.finish(train(run, 3))
    return (folder / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stop", [1, 4, 6])
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path: Path, stop: int, number: int) -> None:
    with make(tmp_path / "whole") as run:
        whole = train(run, 6)
    with pytest.raises(Interrupted, match=f"interrupted at step {stop}; go on with: athena run --resume"):
        with make(tmp_path / "cut") as run:
            train(run, 6, stop, number)
    assert summary(tmp_path / "cut")["status"] == "interrupted"
    with make(tmp_path / "cut") as run:
        if stop < 6:
            assert train(run, 6) == whole
        else:
            assert list(run.steps(6, model=torch.nn.Linear(3, 1), optimizer=_Nothing())) == []
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (
        tmp_path / "whole" / "metrics.jsonl"
    ).read_bytes()


class _Nothing:
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def test_metrics_behind_the_last_checkpoint_are_dropped_not_repeated(tmp_path: Path) -> None:
    with make(tmp_path / "whole") as run:
        train(run, 6)
    with make(tmp_path / "run") as run, pytest.raises(ZeroDivisionError):
        for step in run.steps(6, model=torch.nn.Linear(3, 1)):
            run.log(step, loss=step)
            if step == 3:
                1 / 0  # noqa: B018
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3]  # a kill leaves the same
    with make(tmp_path / "run") as run:
        train(run, 6)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_a_signal_outside_the_steps_ends_the_run_at_once(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="at step 0") as raised, make(tmp_path / "run"):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the signal did nothing")
    assert raised.value.signal == signal.SIGTERM
    assert summary(tmp_path / "run")["status"] == "interrupted"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("inner", [False, True])
def test_a_forked_child_ends_when_it_is_told_to(tmp_path: Path, inner: bool) -> None:
    within = make(tmp_path / "inner") if inner else nullcontext()
    with make(tmp_path / "run") as run:
        for _ in run.steps(1):
            with within:
                child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
                child.start()
                child.terminate()
                child.join(10)
                ended = child.exitcode
                child.kill()
    assert ended == -signal.SIGTERM
    assert summary(tmp_path / "run")["status"] == "complete"


class _Slow(torch.utils.data.Dataset[float]):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> float:
        time.sleep(0.02)
        return float(index)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_of_before_the_steps_outlive_the_ctrl_c_of_a_terminal(tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader(_Slow(), num_workers=1, multiprocessing_context="fork")
    with pytest.raises(Interrupted, match="at step 12"), make(tmp_path / "run") as run:
        batches = iter(loader)
        for step in run.steps(20):
            if step == 12:  # beyond what was loaded ahead
                for process in (*multiprocessing.active_children(), None):
                    os.kill(os.getpid() if process is None else process.pid, signal.SIGINT)
                for _ in range(8):
                    next(batches)
            next(batches)
    assert list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_second_signal_does_not_wait_for_the_step(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), make(tmp_path / "run") as run:
        for _ in run.steps(2):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second signal did nothing")


def test_the_handlers_of_before_are_back_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with make(tmp_path / "run"):
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_resume_with_another_configuration_says_which_keys(tmp_path: Path) -> None:
    config = {"steps": 3, "optimizer": {"name": "a", "lr": 0.1}}
    with make(tmp_path / "run", config=config) as run:
        train(run, 1)
    changed = {"steps": 4, "optimizer": {"name": "a", "lr": 0.2}}
    says = r"changed: steps \(3 -> 4\), optimizer\.lr \(0\.1 -> 0\.2\)\."
    with pytest.raises(AthenaError, match=says), make(tmp_path / "run", config=changed):
        pass
    (tmp_path / "run" / "config.toml").write_text("steps = 4\n[optimizer]\nname = 'a'\nlr = 0.2\n")
    remembered = rf"\(step-00000001\.pt\); {says}"
    with pytest.raises(AthenaError, match=remembered), make(tmp_path / "run", config=changed):
        pass


def test_a_checkpoint_of_other_parts_is_refused(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        train(run, 1)
    with make(tmp_path / "run") as run:
        with pytest.raises(AthenaError, match=r"has \['model', 'optimizer'\], the recipe \['model'\]"):
            next(run.steps(2, model=torch.nn.Linear(3, 1)))


def test_a_checkpoint_that_is_not_a_runs_is_refused(tmp_path: Path) -> None:
    with make(tmp_path / "run"):
        save_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000009.pt", {"a": 1})
    with pytest.raises(AthenaError, match="is not one of a run"), make(tmp_path / "run"):
        pass


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    with make(tmp_path / "run", checkpoint_seconds=0.0) as run:
        train(run, 5)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000004.pt", "step-00000005.pt"]
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / names[0])["step"] == 4


def test_the_newest_checkpoint_is_that_of_the_highest_step_also_beyond_eight_digits(tmp_path: Path) -> None:
    steps = range(10**8 - 2, 10**8 + 2)
    with make(tmp_path / "run") as run:
        for step in steps:
            run.checkpoint({"at": step}, step=step)
    with make(tmp_path / "run") as run:
        assert run.restore() == {"at": steps[-1]}


def test_a_configuration_with_tuples_is_resumed(tmp_path: Path) -> None:
    config = {"sizes": (64, 64), "net": {"layers": [(1, 2.0)]}}
    for total in (1, 2):
        with make(tmp_path / "run", config=config) as run:
            train(run, total)
    says = r"changed: sizes \(\[64, 64\] -> \[64\]\)"
    with pytest.raises(AthenaError, match=says), make(tmp_path / "run", config={**config, "sizes": (64,)}):
        pass


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: Any, file: Any) -> None:
        """As torch does when its zip file cannot be ended either."""
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0\nC++ frames")  # noqa: B904

    with (
        make(tmp_path / "run", checkpoint_seconds=0.0) as run,
        pytest.raises(
            AthenaError, match=r"cannot write .*: No space left on device\. Earlier checkpoints"
        ) as raised,
    ):
        for step in run.steps(3, model=torch.nn.Linear(1, 1)):
            if step == 2:
                monkeypatch.setattr(torch, "save", full)
    assert "\n" not in str(raised.value)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000001.pt"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_an_unwritable_folder_is_one_line() -> None:
    with pytest.raises(AthenaError, match=r"cannot make the run's folder /proc/nowhere/run: "):
        with make(Path("/proc/nowhere/run")):
            pass


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    with make(tmp_path, config={"a": 1}) as run:
        train(run, 1)
    assert (tmp_path / "config.toml").read_text() == "a = 1\n"
    assert summary(tmp_path)["status"] == "complete"


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AthenaError, match="cannot make the run's folder"), make(tmp_path / "file" / "run"):
        pass


def test_a_run_in_use_is_refused(tmp_path: Path) -> None:
    with make(tmp_path / "run"):
        with pytest.raises(AthenaError, match="in use by another process"), make(tmp_path / "run"):
            pass


def test_a_step_is_logged_once(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        run.log(3, loss=1.0)
        with pytest.raises(ValueError, match="`step` must grow, one call a step; got 3 after 3"):
            run.log(3, accuracy=1.0)


@pytest.mark.parametrize("metrics", [None, {"name": "best"}, {"epoch": None}])
def test_metrics_that_are_no_numbers_are_refused_by_name(tmp_path: Path, metrics: Any) -> None:
    says = rf"`{next(iter(metrics or ['metrics']))}` must be a .*number"
    with pytest.raises(TypeError, match=says), make(tmp_path / "run") as run:
        run.finish(metrics)
    assert summary(tmp_path / "run")["status"] == "failed"
    with make(tmp_path / "run") as run:  # it is free again
        with pytest.raises(TypeError, match="the metric `loss` must be a number; got 'x'"):
            run.log(1, loss="x")  # type: ignore[arg-type]


def test_lines_of_before_the_steps_stand_and_come_once(tmp_path: Path) -> None:
    """A baseline at step 0, in a run that is cut and goes on: the lines are those of a whole run."""

    def script(folder: Path, stop: int | None) -> None:
        with make(folder) as run:
            run.log(0, loss=draw())
            for step in run.steps(4, model=torch.nn.Linear(1, 1)):
                run.log(step, loss=draw())
                if step == stop:
                    os.kill(os.getpid(), signal.SIGINT)
            run.log(9, loss=draw())

    script(tmp_path / "whole", None)
    with pytest.raises(Interrupted):
        script(tmp_path / "cut", 2)
    script(tmp_path / "cut", None)
    assert [line["step"] for line in lines(tmp_path / "whole")] == [0, 1, 2, 3, 4, 9]
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_a_run_without_checkpoints_logs_each_line_once_when_run_again(tmp_path: Path) -> None:
    for _ in range(2):
        with make(tmp_path / "run") as run:
            run.log(1, loss=draw())
            run.log(2, loss=draw())
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2]


def test_steps_are_counted_once_a_run(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        assert list(run.steps(2)) == [1, 2]
        with pytest.raises(RuntimeError, match="`steps` must be called once a run"):
            next(run.steps(2))


def test_metrics_that_lost_lines_are_not_gone_on_with(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        train(run, 2)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.raises(AthenaError, match="is shorter than when the checkpoint was written"):
        with make(tmp_path / "run"):
            pass


def test_a_loop_of_ones_own_checkpoints_and_restores(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        assert run.restore() is None
        run.checkpoint({"total": 7}, step=3)
        expected = draw()
    assert summary(tmp_path / "run")["step"] == 3
    with make(tmp_path / "run", seed=5) as run:
        assert run.restore() == {"total": 7}
        assert draw() == expected


def test_a_state_that_cannot_be_saved_is_one_line_with_its_key(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        with pytest.raises(AthenaError, match=r"cannot save the run's state: `state\.model\.path` holds a "):
            run.checkpoint({"model": {"path": Path("a")}}, step=1)


def test_a_disk_that_fills_while_logging_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with make(tmp_path / "run") as run, monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(AthenaError, match=r"cannot write .*metrics\.jsonl: No space left on device"):
            run.log(1, loss=1.0)


def test_bad_input_before_the_first_step_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(AthenaError), make(tmp_path / "run"):
        raise AthenaError("no data")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(AthenaError, match="unknown tracker"), make(tmp_path / "run", trackers=["absent"]):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_ends_without_a_word_is_complete_with_its_last_metrics(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        run.log(1, loss=0.5, bound=float("inf"))
    assert summary(tmp_path / "run")["status"] == "complete"
    assert summary(tmp_path / "run")["metrics"] == {"loss": 0.5, "bound": None}


def test_a_run_at_its_end_keeps_its_last_metrics_when_it_is_run_again(tmp_path: Path) -> None:
    for _ in range(2):
        with make(tmp_path / "run") as run:
            for step in run.steps(2):
                run.log(step, loss=1 / step, best=float("nan"))
        assert summary(tmp_path / "run")["metrics"] == {"loss": 0.5, "best": None}


def test_a_loop_left_early_is_complete_only_if_the_recipe_says_so(tmp_path: Path) -> None:
    for name, finish, status in (("a", False, "incomplete"), ("b", True, "complete")):
        with make(tmp_path / name) as run:
            for step in run.steps(5):
                if step == 3:
                    break
            if finish:
                run.finish({"loss": 0.5})
        assert summary(tmp_path / name)["status"] == status


def test_a_state_that_does_not_fit_is_one_line_with_its_part(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        list(run.steps(1, model=torch.nn.Linear(1, 1)))
    with make(tmp_path / "run") as run:
        with pytest.raises(
            AthenaError, match=r"the checkpoint's `model` does not fit: .*size mismatch"
        ) as raised:
            list(run.steps(2, model=torch.nn.Linear(2, 1)))
    assert "\n" not in str(raised.value)


def test_a_part_without_a_state_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run, pytest.raises(TypeError, match="`model` must have `state_dict`"):
        next(run.steps(2, model=3))  # type: ignore[arg-type]


def test_a_picture_that_does_not_fit_on_the_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with make(tmp_path / "run") as run, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(AthenaError, match=r"cannot write .*curve\.png: No space left"):
            run.figure("curve", Figure())


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="SIGHUP is not on this system")
def test_a_closed_terminal_saves_unless_it_is_ignored(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        with make(tmp_path / "a") as run:
            train(run, 6, 2, signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with make(tmp_path / "b") as run:
            train(run, 3, 2, signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert summary(tmp_path / "b")["step"] == 3


@pytest.mark.parametrize("others", [0, 1])
def test_a_damaged_checkpoint_says_which_is_before_it_if_any(tmp_path: Path, others: int) -> None:
    with make(tmp_path / "run", checkpoint_seconds=0.0) as run:
        list(run.steps(1 + others))
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    newest.write_bytes(b"PK")
    says = "Delete it to resume from step-00000001.pt" if others else "It is the only one"
    with pytest.raises(AthenaError, match=says), make(tmp_path / "run"):
        pass


def test_text_that_looks_like_markup_is_only_text(tmp_path: Path) -> None:
    for terminal in (True, False):
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            console = Console(force_terminal=terminal, file=nowhere)
            with make(tmp_path / f"run-{terminal}", console=console) as run:
                for step in run.steps(2):
                    run.log(step, **{"loss[/x]": 1.0})
                run.print("[/red]")


def test_metrics_are_json_even_where_numbers_are_not(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        run.log(1, loss=float("nan"), top=torch.tensor(float("inf")), count=np.int64(3))
    assert (
        tmp_path / "run" / "metrics.jsonl"
    ).read_text() == '{"step": 1, "loss": null, "top": null, "count": 3}\n'


class Pair(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(2, 2)
        self.last = torch.nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x))


def backward(model: torch.nn.Module) -> torch.Tensor:
    loss = model(torch.ones(3, 2)).sum()
    loss.backward()
    return loss


def test_finite_numbers_give_the_global_norm_of_the_gradients(tmp_path: Path) -> None:
    model = Pair()
    loss = backward(model)
    norms = [parameter.grad.norm() for parameter in model.parameters()]
    with make(tmp_path / "run") as run:
        torch.testing.assert_close(run.check_finite(1, model, loss), torch.stack(norms).norm())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_parameter_that_is_not_finite_comes_before_its_consequences(tmp_path: Path, bad: float) -> None:
    model = Pair()
    with torch.no_grad():
        model.first.bias[1] = bad
    loss = backward(model)
    with (
        make(tmp_path / "run") as run,
        pytest.raises(NotFinite, match=r"step 5: the parameter `first\.bias`"),
    ):
        run.check_finite(5, model, loss)


def test_a_gradient_that_is_not_finite_is_named_though_the_loss_is_finite(tmp_path: Path) -> None:
    model = Pair()
    loss = backward(model)
    model.first.weight.grad[0, 0] = float("nan")
    with make(tmp_path / "run") as run, pytest.raises(NotFinite, match=r"the gradient of `first\.weight`"):
        run.check_finite(5, model, loss)


def test_of_several_gradients_the_first_of_the_backward_pass_is_named(tmp_path: Path) -> None:
    model = Pair()
    loss = backward(model)
    model.first.weight.grad[0, 0] = model.last.weight.grad[0, 0] = float("inf")
    with make(tmp_path / "run") as run, pytest.raises(NotFinite, match=r"the gradient of `last\.weight`"):
        run.check_finite(5, model, loss)


def test_a_loss_that_is_not_finite_alone_is_named(tmp_path: Path) -> None:
    model = Pair()
    loss = backward(model)
    with make(tmp_path / "run") as run, pytest.raises(NotFinite, match="the loss, with finite parameters"):
        run.check_finite(5, model, loss * float("nan"))


def test_a_norm_that_overflows_is_named(tmp_path: Path) -> None:
    """Clipping would make nothing of the gradients: their norm is infinite."""
    model = Pair()
    loss = backward(model)
    model.first.weight.grad.fill_(1e30)
    with make(tmp_path / "run") as run, pytest.raises(NotFinite, match="the norm of the gradients"):
        run.check_finite(5, model, loss)


def test_a_nan_stops_the_run_at_its_step_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    model = Pair()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.raises(NotFinite, match="step 3"), make(tmp_path / "run", checkpoint_seconds=0.0) as run:
        for step in run.steps(9, model=model, optimizer=optimizer):
            loss = model(torch.ones(3, 2)).sum() * (float("nan") if step == 3 else 1.0)
            optimizer.zero_grad()
            loss.backward()
            run.check_finite(step, model, loss)
            optimizer.step()
            run.log(step, loss=loss)
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2]
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    assert all(torch.isfinite(value).all() for value in load_checkpoint(newest)["state"]["model"].values())
    assert summary(tmp_path / "run")["status"] == "failed"


def test_a_module_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    model = Pair()
    with pytest.raises(NotFinite, match=r"the parameter `model\.last\.bias`"), make(tmp_path / "run") as run:
        for _ in run.steps(1, model=model):
            model.last.bias.data.fill_(float("nan"))
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


class Memory(Tracker):
    seen: ClassVar[list[Any]] = []

    def __init__(self, folder: Path) -> None:
        self.seen.append(folder)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.seen.append((step, metrics))

    def close(self) -> None:
        self.seen.append("closed")


class Trackers:
    @hookimpl
    def athena_components(self) -> list[Component]:
        return [Component("tracker", "memory", "test_run:Memory", "Remembers")]


def test_trackers_mirror_the_metrics(tmp_path: Path, athena_host: PluginHost) -> None:
    athena_host.register(Trackers(), "trackers")
    from test_run import Memory  # as the host imports it

    with make(tmp_path / "run", trackers=["memory", "jsonl"]) as run:
        run.log(1, loss=0.5)
    assert Memory.seen == [tmp_path / "run", (1, {"loss": 0.5}), "closed"]
    assert len(lines(tmp_path / "run")) == 1


def test_a_picture_lands_in_the_figures(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    with make(tmp_path / "run") as run:
        path = run.figure("curve", Figure())
    assert path == tmp_path / "run" / "figures" / "curve.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_progress_tells_the_metrics_the_rate_and_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Run(tmp_path / "run", device="cpu", console=Console(width=100)) as run:
        for step in run.steps(3, unit="tokens", units_per_step=10):
            run.log(step, loss=0.5)
        assert list(run.progress([1, 2])) == [1, 2]
    text = capsys.readouterr().out
    assert "step 3/3  loss 0.5" in text
    assert "tokens/s  0:00 left" in text


def test_a_bar_in_a_terminal_may_hold_another(tmp_path: Path) -> None:
    with open(os.devnull, "w") as terminal:  # noqa: PTH123
        console = Console(force_terminal=True, file=terminal)
        with Run(tmp_path / "run", device="cpu", console=console) as run:
            for _ in run.steps(2):
                assert list(run.progress(range(3))) == [0, 1, 2]


def test_progress_in_a_terminal_is_a_bar(tmp_path: Path) -> None:
    console = Console(force_terminal=True, record=True, width=100, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    with Run(tmp_path / "run", device="cpu", console=console) as run:
        for step in run.steps(3):
            run.log(step, loss=0.5)
            run.print("a sample [of text]")
    text = console.export_text()
    assert "3/3" in text
    assert "a sample [of text]" in text
    console.file.close()

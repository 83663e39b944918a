"""The command line: one line for each mistake, exit code 2, nothing heavy to list."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_distributions import HEAD, plugin_source, write_distribution

from athena_core import AthenaError, Run, _launch, load, saved_run
from athena_core._cli import main

RECIPES = f"""{HEAD}
@hookimpl
def athena_components():
    return [
        Component("recipe", "walk", "walking:Walk", "Walks"),
        Component("recipe", "lost", "walking:Absent", "Has no target"),
        Component("recipe", "wrong", "builtins:dict", "Is no recipe"),
    ]
"""
WALKING = '''
import time
from collections.abc import Mapping
from dataclasses import dataclass
import torch
from athena_core import AthenaError, Recipe, Run

@dataclass(kw_only=True)
class Walk(Recipe):
    """Walks at random.

    Args:
        steps: how many.
        size: how far one goes.
        pause: seconds between two.
        turn: the step at which it goes nowhere.
        late: whether it finds a mistake in what it is given.
    """

    steps: int = 5
    size: float = 1.0
    pause: float = 0.0
    turn: int = 0
    late: bool = False

    def run(self, run: Run) -> Mapping[str, float]:
        if self.late:
            raise AthenaError("found late")
        model = torch.nn.Linear(1, 1)
        for step in run.steps(self.steps, model=model):
            time.sleep(self.pause)
            loss = model(torch.randn(8, 1)).sum() * (float("nan") if step == self.turn else 1.0)
            model.zero_grad()
            loss.backward()
            run.check_finite(step, model, loss)
            with torch.no_grad():
                model.weight.add_(self.size * torch.randn(()))
            run.log(step, place=model.weight.item())
        return {"place": model.weight.item()}
'''


@pytest.fixture
def recipes(installed: Path) -> Path:
    """A distribution with the recipe `walk`, installed; and a folder for runs."""
    write_distribution(installed, "walks", RECIPES)
    (installed / "walking.py").write_text(WALKING)
    return installed


def athena(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a mistake gets."""
    code, _, err = athena(capsys, *arguments)
    assert code == 2, err
    assert err.startswith("athena: ")
    assert err.count("\n") == 1, err
    return err


def only_run(folder: Path) -> Path:
    (run,) = folder.iterdir()
    return run


def test_list_shows_every_component_and_json_is_one_list(
    recipes: Path, capsys: pytest.CaptureFixture
) -> None:
    code, out, _ = athena(capsys, "list")
    assert code == 0
    assert "recipe/walk" in out
    assert "device/cpu" in out
    _, out, _ = athena(capsys, "list", "recipe", "--json")
    mine = [row for row in json.loads(out) if row["distribution"] == "walks"]
    assert [row["name"] for row in mine] == ["lost", "walk", "wrong"]


def test_the_version_is_shown(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out.startswith("athena-core 0.")


def test_list_imports_nothing_heavy(tmp_path: Path) -> None:
    """Pitfall 1: no torch, numpy or triton to list."""
    write_distribution(tmp_path, "extra", plugin_source("thing/one"))
    code = (
        "import sys\nfrom athena_core._cli import main\nassert main(['list']) == 0\n"
        "print([m for m in ('torch', 'numpy', 'triton', 'rich', 'jsonargparse') if m in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert "thing/one" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_closed_pipe_is_no_error(recipes: Path) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "athena_core", "list"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lsit"], "unknown command `lsit`. Did you mean `list`?"),
        ([], "the following arguments are required: COMMAND"),
        (["list", "recipee"], "Did you mean `recipe`?"),
        (["info", "cpu"], "takes KIND/NAME"),
        (["info", "device/cpuu"], "unknown device `cpuu`. Did you mean `cpu`?"),
        (["info", "device/cpu", "--plot"], "components of kind `device` have no picture"),
        (["plugins", "disable"], "takes the name of a distribution"),
        (["plugins", "disable", "walsk"], "Did you mean `walks`?"),
        (["run"], "name a recipe"),
        (["run", "wlak"], "unknown recipe `wlak`. Did you mean `walk`?"),
        (["run", "lost"], "walking:Absent"),
        (["run", "wrong"], "is not a subclass of athena_core.Recipe"),
        (["run", "walk", "--sizes", "3"], "unknown option `--sizes`. Did you mean `--size`?"),
        (["run", "walk", "--size", "big"], "option `size` must be float; got big."),
        (["run", "walk", "--device", "cdua"], "Did you mean `cuda`?"),
        (
            ["run", "walk", "--seed", "-1"],
            "`seed` must be a whole number from 0 to 9223372036854775807; got -1.",
        ),
        (["run", "walk", "--seed", "x"], "invalid int value: 'x'"),
        (["run", "walk", "--seed", str(2**70)], "`seed` must be a whole number from 0 to"),
        (["run", "walk", "--seeds", "3:1"], "`--seeds` must be a range such as 0:10"),
        (["run", "walk", "--seeds", "0:2000000000"], "`--seeds` must be a range such as 0:10"),
        (["run", "walk", "--seeds", f"0:{2**63}"], "of 1 to 10000 different seeds from 0"),
        (["run", "walk", "--out", ""], "argument --out: got an empty value"),
        (["run", "walk", "--device", ""], "argument --device: got an empty value"),
        (
            ["run", "walk", "--checkpoint-seconds", "nan"],
            "must be at least 0; got nan",
        ),
        (["run", "walk", "--seeds", "1,1"], "`--seeds` must be a range such as 0:10"),
        (["run", "walk", "--seeds", "0:2", "--seed", "1"], "exclude each other"),
        (["run", "walk", "--config", "absent.toml"], "absent.toml: cannot be read"),
        (["run", "walk", "--tracker", "papre"], "unknown tracker `papre`"),
        (["run", "walk", "--resume", "x"], "leave out `walk`"),
        (["run", "--resume", "x", "--config", "a.toml"], "leave out `--config`"),
        (["run", "--resume", "x", "--out", "y"], "leave out `--out`"),
        (["run", "--resume", "x", "--seeds", "0:2"], "leave out `--seeds`"),
        (["run", "--resume", "absent"], "absent holds no run"),
        (["new", "Bad Name"], "lower case, words joined by `-`"),
        (["doctor", "--model", "absent:factory"], "absent"),
    ],
)
def test_a_mistake_is_one_line(
    recipes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in complaint(capsys, *arguments)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import absent_package\n", "ModuleNotFoundError: No module named 'absent_package'"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("x = = 1\n", "SyntaxError: invalid syntax"),
    ],
)
def test_a_broken_plugin_is_one_line_and_the_others_work(
    recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture, source: str, says: str
) -> None:
    write_distribution(recipes, "broken", source)
    code, out, err = athena(capsys, "list")
    assert (code, err) == (0, "not loaded: broken; `athena plugins` says why\n")
    assert "recipe/walk" in out
    assert says in athena(capsys, "plugins")[1]
    assert says in complaint(capsys, "info", "recipe/broken/x")
    assert athena(capsys, "run", "walk", "--out", tmp_path / "runs")[0] == 0


def test_plugins_are_switched_off_and_on(
    recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("ATHENA_CONFIG_DIR", str(tmp_path / "config"))
    for action, state in (("disable", "disabled"), ("enable", "active")):
        assert athena(capsys, "plugins", action, "Walks")[0] == 0
        fresh = [sys.executable, "-m", "athena_core", "plugins"]
        done = subprocess.run(
            fresh, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(recipes)}
        )
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("walks")]
        assert state in line


def test_info_shows_a_components_facts_and_options(recipes: Path, capsys: pytest.CaptureFixture) -> None:
    _, out, _ = athena(capsys, "info", "recipe/walk")
    for words in (
        "recipe/walk",
        "Walks",
        "walks 1.0",
        "walking:Walk",
        "size: float = 1.0",
        "Walks at random.",
    ):
        assert words in out


def test_help_shows_the_options_of_the_run_and_of_the_recipe(
    recipes: Path, capsys: pytest.CaptureFixture
) -> None:
    code, out, _ = athena(capsys, "run", "walk", "--help")
    assert code == 0
    for words in ("--seeds A:B", "--resume FOLDER", "--size SIZE", "how far one goes"):
        assert words in out


def test_a_run_says_where_everything_is_and_how_to_go_on(
    recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    code, out, _ = athena(capsys, "run", "walk", "--out", tmp_path / "runs", "--size", "0.5", "--seed", "3")
    assert code == 0
    run = only_run(tmp_path / "runs")
    for words in ("place", str(run / "metrics.jsonl"), "athena run --config", "athena report"):
        assert words in out
    config = (run / "config.toml").read_text()
    assert 'recipe = "walk"' in config
    assert "size = 0.5" in config
    assert "seed = 3" in config


def test_a_runs_configuration_runs_again_to_the_same_metrics(
    recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    athena(capsys, "run", "walk", "--out", tmp_path / "a", "--size", "0.5", "--seed", "3")
    first = only_run(tmp_path / "a")
    athena(capsys, "run", "--config", first / "config.toml", "--out", tmp_path / "b")
    again = only_run(tmp_path / "b")
    assert (again / "metrics.jsonl").read_bytes() == (first / "metrics.jsonl").read_bytes()
    assert (again / "config.toml").read_text() == (first / "config.toml").read_text()


def test_several_seeds_make_a_run_each_and_are_reported(
    recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert athena(capsys, "run", "walk", "--out", tmp_path / "runs", "--seeds", "0:3")[0] == 0
    folder = only_run(tmp_path / "runs")
    assert sorted(path.name for path in folder.iterdir()) == ["seed-0", "seed-1", "seed-2"]
    assert len({(path / "metrics.jsonl").read_text() for path in folder.iterdir()}) == 3
    code, out, _ = athena(capsys, "report", folder, "--out", tmp_path / "report")
    assert code == 0
    assert "place" in out
    assert list((tmp_path / "report").glob("*.png"))


def test_runs_of_the_same_second_have_a_folder_each(
    recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(_launch.time, "strftime", lambda _: "20260101-120000")
    prepare = Run.prepare

    def last_comes_first(run: Run) -> None:
        monkeypatch.setattr(Run, "prepare", prepare)
        assert main(["run", "walk", "--out", str(tmp_path), "--seed", "1"]) == 0
        run.prepare()

    monkeypatch.setattr(Run, "prepare", last_comes_first)
    assert athena(capsys, "run", "walk", "--out", tmp_path)[0] == 0
    names = sorted(path.parent.name for path in tmp_path.glob("*/summary.json"))
    assert names == ["walk-20260101-120000", "walk-20260101-120000-2"]


@pytest.mark.parametrize("failing", [{"turn": 2}, {"late": True}])
def test_a_seed_that_fails_leaves_the_others_to_a_resume(
    recipes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    failing: dict[str, Any],
) -> None:
    walk = load("recipe", "walk")
    whole = walk.run

    def fails_with_seed_1(recipe: Any, run: Run) -> Any:
        return whole(replace(recipe, **failing) if run.seed == 1 else recipe, run)

    with monkeypatch.context() as patched:
        patched.setattr(walk, "run", fails_with_seed_1)
        complaint(capsys, "run", "walk", "--out", tmp_path / "runs", "--seeds", "0:4")
    folder = only_run(tmp_path / "runs")
    assert athena(capsys, "run", "--resume", folder)[0] == 0
    states = {
        path.parent.name: json.loads(path.read_text())["status"] for path in folder.glob("*/summary.json")
    }
    assert states == dict.fromkeys(("seed-0", "seed-1", "seed-2", "seed-3"), "complete")


def test_commands_to_go_on_with_are_quoted(
    recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    _, out, _ = athena(capsys, "run", "walk", "--out", "my runs", "--seeds", "0:2")
    folder = only_run(Path("my runs"))
    assert f"athena report '{folder}'" in out
    (folder / "seed-0" / "summary.json").write_text('{"status": "interrupted"}')
    assert f"athena run --resume '{folder}/seed-0'" in complaint(capsys, "report", folder)
    assert "pip install -e 'my runs/a-plugin'" in athena(capsys, "new", "my runs/a-plugin")[1]


def test_a_mistake_found_late_leaves_no_folder(
    recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    complaint(capsys, "run", "walk", "--out", tmp_path / "runs", "--tracker", "absent", "--seeds", "0:3")
    complaint(capsys, "run", "walk", "--out", tmp_path / "runs", "--late", "true", "--seeds", "0:3")
    assert not list((tmp_path / "runs").glob("*"))


def test_a_recipe_that_is_no_name_is_one_line(
    recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "a.toml").write_text("recipe = 3\n")
    assert "name a recipe" in complaint(capsys, "run", "--config", tmp_path / "a.toml")


def test_a_configuration_of_another_recipe_is_one_line(
    recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "a.toml").write_text('recipe = "lost"\n')
    says = complaint(capsys, "run", "walk", "--config", tmp_path / "a.toml")
    assert "is for the recipe `lost`; got `walk`" in says


def test_a_disabled_plugin_is_named_where_its_component_is_missed(
    recipes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("ATHENA_DISABLE", "walks")
    assert "Not loaded: `walks` (disabled)" in complaint(capsys, "run", "walk")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [0.3, 0.6, 1.0])
def test_a_signal_while_torch_is_imported_is_not_lost(
    recipes: Path, tmp_path: Path, number: int, moment: float
) -> None:
    """An exception inside an import is swallowed or ends the process; so the signal waits for its end."""
    command = [sys.executable, "-m", "athena_core", "run", "walk", "--out", tmp_path / "runs", "--pause", "1"]
    env = {**os.environ, "PYTHONPATH": str(recipes)}
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
    ) as process:
        time.sleep(moment)
        process.send_signal(number)
        err = process.stderr.read().decode()
    assert process.returncode in (128 + number, -number)  # the latter before our own code runs
    if process.returncode > 0:
        assert err.count("\n") == 1, err
        assert "interrupted" in err


def test_info_of_what_has_no_signature_shows_the_rest(installed: Path, capsys: pytest.CaptureFixture) -> None:
    source = (
        HEAD
        + '\n@hookimpl\ndef athena_components():\n    return [Component("thing", "tau", "math:tau", "t")]\n'
    )
    write_distribution(installed, "things", source)
    code, out, _ = athena(capsys, "info", "thing/tau")
    assert code == 0
    assert "math:tau" in out


def test_text_that_the_terminal_cannot_show_is_replaced(recipes: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(recipes), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "athena_core", "run", "walk", "--out", str(tmp_path / "ünï")]
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"?n?" in done.stdout


def test_a_nan_stops_the_run_with_one_line(
    recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    says = complaint(capsys, "run", "walk", "--out", tmp_path, "--turn", "3")
    assert "not finite at step 3" in says
    assert "the gradient of `" in says


def test_a_complete_run_is_not_run_again(
    recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    athena(capsys, "run", "walk", "--out", tmp_path / "runs")
    run = only_run(tmp_path / "runs")
    before = (run / "metrics.jsonl").read_bytes()
    code, out, _ = athena(capsys, "run", "--resume", run)
    assert (code, out) == (0, f"{run} is complete already\n")
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_saved_run_is_read_back(recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "runs"
    athena(capsys, "run", "walk", "--size", 2.5, "--seed", 7, "--out", out, "--device", "cpu")
    run = only_run(out)
    saved = saved_run(run)
    assert (type(saved.recipe).__name__, saved.recipe.size, saved.seed, saved.step) == ("Walk", 2.5, 7, 5)
    summary = json.loads((run / "summary.json").read_text())
    assert saved.state["model"]["weight"].item() == summary["metrics"]["place"]
    for checkpoint in (run / "checkpoints").iterdir():
        checkpoint.unlink()
    with pytest.raises(AthenaError, match="has no checkpoint yet: let the run come to its end"):
        saved_run(run)
    (run / "config.toml").write_text("seed = 1\n")
    with pytest.raises(AthenaError, match="is not a run's configuration: it names no recipe"):
        saved_run(run)


@pytest.mark.parametrize(
    ("change", "says"), [(["--size", "2"], "size (1.0 -> 2.0)"), (["--seed", "1"], "seed (0 -> 1)")]
)
def test_a_resume_with_a_changed_option_says_which(
    recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture, change: list[str], says: str
) -> None:
    athena(capsys, "run", "walk", "--out", tmp_path / "runs")
    assert f"changed: {says}" in complaint(capsys, "run", "--resume", only_run(tmp_path / "runs"), *change)


@pytest.mark.parametrize(
    "damage", [b"", b"PK\x03\x04cut", b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os."]
)
def test_a_damaged_checkpoint_is_one_line(
    recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture, damage: bytes
) -> None:
    athena(capsys, "run", "walk", "--out", tmp_path / "runs")
    run = only_run(tmp_path / "runs")
    (run / "summary.json").write_text("{cut")
    (run / "checkpoints" / "step-00000005.pt").write_bytes(damage)
    assert "step-00000005.pt" in complaint(capsys, "run", "--resume", run)


def test_an_output_folder_that_cannot_be_made_is_one_line(
    recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("absent")
    for out in ("file", "file/runs", "link"):
        assert "cannot make the run's folder" in complaint(capsys, "run", "walk", "--out", tmp_path / out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_resume(recipes: Path, tmp_path: Path, number: int) -> None:
    """All seeds are found again by a resume, those not begun too."""
    environment = {**os.environ, "PYTHONPATH": str(recipes)}
    command = [sys.executable, "-m", "athena_core", "run"]

    def finish(*arguments: object) -> None:
        subprocess.run([*command, *map(str, arguments)], capture_output=True, check=True, env=environment)

    options: tuple[Any, ...] = ("--seeds", "0:2", "--pause", "0.02", "--steps", "40")
    cut = [*command, "walk", "--out", tmp_path / "cut", *options]
    with subprocess.Popen(cut, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        while not list((tmp_path / "cut").glob("*/seed-0/metrics.jsonl")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(number)
        err = process.stderr.read().decode()
    folder = only_run(tmp_path / "cut")
    assert process.returncode == 128 + number
    assert f"go on with: athena run --resume {folder}\n" in err
    finish("--resume", folder)
    finish("walk", "--out", tmp_path / "whole", *options)
    for seed in ("seed-0", "seed-1"):
        whole = only_run(tmp_path / "whole") / seed / "metrics.jsonl"
        assert (folder / seed / "metrics.jsonl").read_bytes() == whole.read_bytes()

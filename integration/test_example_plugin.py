"""The example of a third-party package installs, is found, obeys its kind's laws, and trains."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[1] / "examples" / "athena-signum"
ATHENA = str(Path(sys.executable).with_name("athena"))
TINY = {"batch": 2, "context": 16, "width": 16, "layers": 1, "heads": 2, "heldout": 256, "sample_length": 4}

Call = Callable[..., str]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Run a command in an empty folder, with the plugin installed; returns what it printed."""
    site = tmp_path_factory.mktemp("site")
    folder = tmp_path_factory.mktemp("work")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(PLUGIN)], check=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ATHENA_")}
    environment |= {"PYTHONPATH": str(site), "ATHENA_CONFIG_DIR": str(folder)}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


def test_is_listed_beside_ours(call: Call) -> None:
    rows = json.loads(call(ATHENA, "list", "optimizer", "--json"))
    assert ("signum", "athena-signum") in [(row["name"], row["distribution"]) for row in rows]
    assert "athena-signum 0.1.0" in call(ATHENA, "info", "optimizer/signum")


def test_trains_the_language_model(call: Call, tmp_path: Path) -> None:
    options = ["--optimizer", "signum", "--optimizer.momentum", "0.5", "--steps", "2"]
    tiny = [f"--{name}={value}" for name, value in TINY.items()]
    call(ATHENA, "run", "lm", *options, *tiny, "--device", "cpu", "--out", str(tmp_path))
    (file,) = tmp_path.glob("*/config.toml")
    optimizer = tomllib.loads(file.read_text(encoding="utf-8"))["optimizer"]
    assert optimizer == {"name": "signum", "lr": 1e-3, "momentum": 0.5}


def test_an_unknown_option_of_it_is_one_line(call: Call) -> None:
    with pytest.raises(AssertionError, match=r"unknown option `--optimizer\.momentun`.*momentum"):
        call(ATHENA, "run", "lm", "--optimizer", "signum", "--optimizer.momentun", "0.5")


def test_passes_its_own_tests(call: Call) -> None:
    call(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PLUGIN / "tests"))


def test_its_readme_runs(call: Call) -> None:
    (block,) = re.findall(
        r"```python\n(.*?)```", (PLUGIN / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    call(sys.executable, "-c", block)

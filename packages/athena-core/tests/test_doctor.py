"""`athena doctor`, in a process of its own with folders of invented distributions."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from fake_distributions import plugin_source, write_distribution

from athena_core import AthenaError
from athena_core._doctor import report

RUN = "import sys; from athena_core._doctor import report; lines, code = report()"


def doctor(folder, **environment):
    """Lines and exit status of a doctor that sees the distributions in ``folder``."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ATHENA_")}
    kept |= {"PYTHONPATH": str(folder), "ATHENA_CONFIG_DIR": str(folder), **environment}
    command = [sys.executable, "-c", f"{RUN}; print(*lines, sep='\\n'); sys.exit(code)"]
    ended = subprocess.run(command, env=kept, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 1), ended.stderr
    return ended.stdout.splitlines(), ended.returncode


def only(lines, *words):
    found = [line for line in lines if all(word in line for word in words)]
    assert len(found) == 1, (words, lines)
    return found[0]


BROKEN = {
    "aborts": "import os; os.abort()",
    "raises": "raise ImportError('no such lamp')",
    "exits": "raise SystemExit(0)",
    "leaves": "import os; os._exit(0)",
    "typo": "def f(:",
}


def test_every_plugin_broken(tmp_path):
    """Pitfall: a plugin that aborts natively takes the process along; here it is named, the rest works."""
    for name, source in BROKEN.items():
        write_distribution(tmp_path, f"athena-{name}", source, version="2.5")
    write_distribution(tmp_path, "athena-future", "", requires=["athena-core>=99"])
    write_distribution(tmp_path, "athena-orphan", None)
    lines, code = doctor(tmp_path)
    assert code == 1
    said = only(lines, "athena-aborts")
    for part in ("! plugin", "2.5", "entry point main = athena_aborts_plugin", "signal SIGABRT"):
        assert part in said
    assert "athena plugins disable athena-aborts" in said
    assert "exit code 0" in only(lines, "athena-leaves")
    assert "ImportError: no such lamp" in only(lines, "athena-raises")
    assert "SystemExit" in only(lines, "athena-exits")
    assert "SyntaxError" in only(lines, "athena-typo")
    assert "athena-core>=99" in only(lines, "athena-future")
    assert "athena_orphan_plugin" in only(lines, "athena-orphan")
    assert only(lines, "plugin athena-core", "active")
    assert only(lines, "device cpu: 1 here")
    assert only(lines, "device auto: cpu")


def test_components_that_fail_on_import(tmp_path):
    write_distribution(
        tmp_path, "athena-deep", plugin_source("device/deep").replace("builtins:dict", "deep:Deep")
    )
    (tmp_path / "deep.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    write_distribution(
        tmp_path, "athena-lost", plugin_source("device/lost").replace("builtins:dict", "lost:Lost")
    )
    lines, code = doctor(tmp_path, ATHENA_STRICT="1")
    assert code == 1
    assert "signal SIGSEGV" in only(lines, "athena-deep")
    assert "cannot import `lost:Lost`" in only(lines, "plugin athena-lost")
    assert only(lines, "device cpu: 1 here")


def test_a_plugin_that_hangs(tmp_path, monkeypatch):
    write_distribution(tmp_path, "athena-slow", "import time; time.sleep(60)")
    monkeypatch.setattr(sys.modules[__name__], "RUN", RUN.replace("report()", "report(timeout=6)"))
    lines, code = doctor(tmp_path)
    assert code == 1
    assert "did not load within 6 s" in only(lines, "athena-slow")


def test_switches(tmp_path):
    write_distribution(tmp_path, "athena-aborts", BROKEN["aborts"])
    lines, code = doctor(tmp_path, ATHENA_DISABLE="athena-aborts", ATHENA_STRICT="1")
    assert code == 0
    assert only(lines, "switch ATHENA_DISABLE=athena-aborts")
    assert only(lines, "plugin athena-aborts", "disabled: switched off by ATHENA_DISABLE")
    lines, code = doctor(tmp_path, ATHENA_NO_PLUGINS="1", ATHENA_DEVICES="cuda", ATHENA_DEVICE="cudda")
    assert code == 1
    assert "disabled" in only(lines, "plugin athena-aborts")
    assert only(lines, "! ATHENA_DEVICES is no switch; is ATHENA_DEVICE meant?")
    assert only(lines, "! device auto: ATHENA_DEVICE `cudda`", "Did you mean `cuda`?")
    (tmp_path / "plugins.toml").write_text("disabled = 3\n")
    lines, code = doctor(tmp_path)
    assert code == 1
    assert only(lines, "! ", "plugins.toml")


def test_notes_are_nothing_to_mend(athena_host, monkeypatch):
    monkeypatch.setattr("athena_core._doctor._plugins", lambda timeout: [])
    monkeypatch.delenv("ATHENA_DEVICE", raising=False)
    monkeypatch.setattr("athena_core._backends.CPU.notes", lambda self: ["it is warm"])
    lines, code = report()
    assert code == 0
    assert lines[lines.index("device cpu: 1 here") + 2] == "  it is warm"


@pytest.fixture
def models(tmp_path, monkeypatch, athena_host):
    """A module of factories in the working folder; plugins stay unprobed."""
    (tmp_path / "athena_test_models.py").write_text(
        "import torch\n"
        "number = 3\n"
        "def small(): return torch.nn.Linear(1000, 1000)\n"
        "def huge(): return torch.nn.Linear(10**7, 10**6)\n"
        "def eager(): return torch.nn.Linear(int(torch.ones(1).item()), 2)\n"
        "def none(): return {}\n"
        "def needs(x): return x\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATHENA_DEVICE", raising=False)
    monkeypatch.setattr("athena_core._doctor._plugins", lambda timeout: [])
    yield
    sys.modules.pop("athena_test_models", None)


def test_plans_of_a_model(models):
    lines, code = report("athena_test_models:small")
    assert code == 0
    training, inference = (line.split() for line in lines if line.startswith("cpu "))
    assert training[4:8] == inference[4:6] + training[6:8] == ["3.82", "MiB", "3.82", "MiB"]
    lines, code = report("athena_test_models:huge")
    assert code == 1
    refused = [line for line in lines if line.startswith("! `weight` (1000000 x 10000000, float32")]
    assert len(refused) == 2
    assert all("36.38 TiB" in line for line in refused)
    assert report("athena_test_models:eager")[1] == 0


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("no_such_module:make", "ModuleNotFoundError"),
        ("athena_test_models:make", "no attribute 'make'"),
        ("athena_test_models", "must be MODULE:FACTORY"),
        ("athena_test_models:number", "must be MODULE:FACTORY"),
        ("athena_test_models:none", r"must return a torch\.nn\.Module; got dict"),
        ("athena_test_models:needs", "fails when called: TypeError"),
    ],
)
def test_a_target_that_is_no_model(models, target, line):
    before = dict(os.environ), list(sys.path)
    with pytest.raises(AthenaError, match=line):
        report(target)
    assert (dict(os.environ), list(sys.path)) == before

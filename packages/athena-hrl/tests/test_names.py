"""What a plain ``import athena_hrl`` has at hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = "import sys; sys.modules['stable_baselines3'] = None; "


def ran(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_all_names_can_be_had_without_extras() -> None:
    found = ran(BLOCKED + "from athena_hrl import *; print(OptionEnv, HAM, HIRO)")
    assert found.returncode == 0, found.stderr


def test_an_attribute_of_a_missing_extra_says_how_to_install_it() -> None:
    found = ran(BLOCKED + "import athena_hrl; athena_hrl.sb3.HindsightReplayBuffer")
    assert "run `pip install 'athena-hrl[sb3]'`" in found.stderr.splitlines()[-1]


def test_sb3_is_an_attribute_of_the_package() -> None:
    pytest.importorskip("stable_baselines3")
    found = ran("import athena_hrl; athena_hrl.sb3.HindsightReplayBuffer")
    assert found.returncode == 0, found.stderr

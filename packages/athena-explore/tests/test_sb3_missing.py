"""Without its extra, the module for Stable-Baselines3 says how to install it, and the rest works."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys

sys.modules["{missing}"] = None
import athena_explore

athena_explore.RND
try:
    import athena_explore.sb3
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("missing", ["stable_baselines3", "sb3_contrib"])
def test_the_error_says_what_to_install(missing: str) -> None:
    code = CODE.format(missing=missing)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.count("\n") == 1
    assert "pip install athena-explore[sb3]" in run.stdout


def test_importing_it_imports_neither_torch_nor_stable_baselines() -> None:
    code = "import sys, athena_explore.sb3; print({'torch', 'stable_baselines3'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"

"""Without its extra, the module for Stable-Baselines3 says how to install it, and the rest works."""

from __future__ import annotations

import subprocess
import sys

MISSING = """
import sys

sys.modules["stable_baselines3"] = None
import athena_multitask

athena_multitask.MetaWorldRecipe
try:
    import athena_multitask.sb3
except ImportError as error:
    print(error)
"""
LAZY = (
    "import sys, athena_multitask.sb3; print({'torch', 'stable_baselines3', 'gymnasium'} & set(sys.modules))"
)


def output(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_error_says_what_to_install() -> None:
    assert output(MISSING).splitlines() == [
        "`athena_multitask.sb3` needs stable-baselines3: run `pip install 'athena-multitask[sb3]'`."
    ]


def test_importing_it_imports_neither_torch_nor_stable_baselines() -> None:
    assert output(LAZY) == "set()\n"

"""Without their extras, the modules for environments say how to install them, and the rest works."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys

sys.modules["{missing}"] = None
import athena_core

athena_core.stats
try:
    import athena_core.environments{module}
except athena_core.AthenaError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("missing", "module", "extra"), [("gymnasium", "", "gym"), ("stable_baselines3", ".sb3", "sb3")]
)
def test_the_error_says_what_to_install(missing: str, module: str, extra: str) -> None:
    code = CODE.format(missing=missing, module=module)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.count("\n") == 1
    assert f"pip install 'athena-core[{extra}]'" in run.stdout


def test_importing_it_imports_neither_gymnasium_nor_torch() -> None:
    code = (
        "import sys, athena_core\n"
        "athena_core.environments\n"
        "print({'torch', 'gymnasium', 'stable_baselines3'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def test_environments_need_no_torch() -> None:
    code = "import sys, athena_core.environments as e; e.NumpyVectorEnv; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"

"""What the README and the docstrings show, runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import athena_optim

README = Path(__file__).parents[1] / "README.md"
MODULES = [f"athena_optim.{module.name}" for module in pkgutil.iter_modules(athena_optim.__path__)]


def test_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    exec(compile("\n".join(blocks), str(README), "exec"), {})


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_run(name):
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.failed == 0


def test_public_names_have_an_example():
    for name in athena_optim.__all__:
        assert ">>> " in (getattr(athena_optim, name).__doc__ or ""), f"{name} has no example"

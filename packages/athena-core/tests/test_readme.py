"""What the README and the docstrings show, runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import matplotlib
import pytest

import athena_core

matplotlib.use("Agg")

README = Path(__file__).parents[1] / "README.md"
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(athena_core.__path__, "athena_core.")
    if not module.name.endswith("__main__")  # importing it runs the command
)


def test_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    exec(compile("\n".join(blocks), str(README), "exec", dont_inherit=True), {"__name__": "readme"})


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_public_functions_have_an_example() -> None:
    values = [getattr(athena_core, name) for name in athena_core.__all__]
    for module in (athena_core.stats, athena_core.figures):
        own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        values += [value for value in own.values() if getattr(value, "__module__", "") == module.__name__]
    for function in filter(inspect.isfunction, values):
        assert ">>> " in (function.__doc__ or ""), f"{function.__qualname__} has no example"

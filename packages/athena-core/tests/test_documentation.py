"""`athena_core.testing.documentation` names what a package's README and docstrings get wrong."""

from __future__ import annotations

import sys
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from athena_core.testing import Check, documentation

HALVE = '''
def halve(x):
    """Half of it.

    >>> halve(3)
    1.5
    """
    return x / 2
'''
README = (
    "# shown\n\n```python\nfrom shown import halve\n```\n\nThen\n\n```python\nassert halve(3) == 1.5\n```\n"
)
Write = Callable[..., dict[str, Check]]


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write the package `shown`, its one module and its README; return the checks by name."""

    def write(
        init: str = "from ._halve import halve\n\n__all__ = ['halve']\n",
        module: str = HALVE,
        readme: str = README,
    ) -> dict[str, Check]:
        (tmp_path / "shown").mkdir()
        (tmp_path / "shown" / "__init__.py").write_text(init)
        (tmp_path / "shown" / "_halve.py").write_text(module)
        (tmp_path / "shown" / "__main__.py").write_text(
            "raise SystemExit('importing this runs the command')\n"
        )
        (tmp_path / "README.md").write_text(readme)
        return {check.name: check for check in documentation("shown", tmp_path / "README.md")}

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "shown"]:
        del sys.modules[name]


def test_a_documented_package_passes(checks: Write) -> None:
    found = checks()
    assert list(found) == [
        "README.md runs",
        "examples of shown run",
        "examples of shown._halve run",
        "public names have an example",
    ]
    for check in found.values():
        check()


def test_an_error_in_the_readme_is_at_its_own_line(checks: Write) -> None:
    found = checks(readme=README.replace("1.5", "2.5"))
    with pytest.raises(AssertionError) as failed:
        found["README.md runs"]()
    assert failed.traceback[-1].lineno + 1 == README.splitlines().index("assert halve(3) == 1.5") + 1


def test_a_readme_without_a_python_block_is_no_proof(checks: Write) -> None:
    with pytest.raises(AssertionError, match="has no Python block"):
        checks(readme="# shown\n\n```sh\npip install shown\n```\n")["README.md runs"]()


def test_an_example_that_prints_something_else_is_shown(checks: Write) -> None:
    found = checks(module=HALVE.replace("    1.5", "    2.5"))
    with pytest.raises(AssertionError, match=r"(?s)Expected:\s+2\.5\s+Got:\s+1\.5"):
        found["examples of shown._halve run"]()


@pytest.mark.parametrize(
    ("init", "module", "name"),
    [
        ("__all__ = ['bare']\n\ndef bare():\n    'No example.'\n", HALVE, "shown.bare"),
        ("__all__ = ['Bare']\n\nclass Bare:\n    'No example.'\n", HALVE, "shown.Bare"),
        ("value = 1\n\ndef silent():\n    pass\n", HALVE, "shown.silent"),
    ],
    ids=["function", "class", "without __all__"],
)
def test_a_public_name_without_an_example_is_named(checks: Write, init: str, module: str, name: str) -> None:
    with pytest.raises(AssertionError, match=rf"no example in the docstrings of {name}(\n|$)"):
        checks(init=init, module=module)["public names have an example"]()


def test_a_module_without_an_underscore_is_public(checks: Write, tmp_path: Path) -> None:
    check = checks()["public names have an example"]
    (tmp_path / "shown" / "extra.py").write_text("class Half(float):\n    pass\n")
    with pytest.raises(AssertionError, match=r"no example in the docstrings of shown\.extra\.Half(\n|$)"):
        check()


def test_a_module_that_says_what_it_lacks_is_left_out(checks: Write, tmp_path: Path) -> None:
    checks()
    heavy = tmp_path / "shown" / "heavy"
    heavy.mkdir()
    (heavy / "__init__.py").write_text(
        "from athena_core import AthenaError\nraise AthenaError('needs a compiler')\n"
    )
    found = {check.name: check for check in documentation("shown", tmp_path / "README.md")}
    with pytest.raises(unittest.SkipTest, match="needs a compiler"):
        found["examples of shown.heavy run"]()
    found["public names have an example"]()

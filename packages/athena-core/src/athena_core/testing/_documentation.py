"""The checks of what a package shows its users: its README, and the examples in its docstrings."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import unittest
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType

from athena_core._errors import AthenaError
from athena_core.testing._check import Check


def documentation(package: str, readme: Path) -> list[Check]:
    """The checks that what a package shows its users is there and runs, each with its name.

    The Python blocks of the README run in one namespace, in order; so do the examples of every
    module's docstrings; and every public class and function has an example. Public modules are those
    without an underscore in their names; what is public in one, its ``__all__`` says; of one without
    ``__all__``, all that it defines under a name without an underscore is. A module whose import raises
    AthenaError, as it lacks something, is left out.

    Args:
        package: the name it is imported by.
        readme: its README, in Markdown.

    Raises ImportError if the package cannot be imported.

    In a test file, ``@pytest.mark.parametrize("check", documentation(...), ids=lambda check: check.name)``
    makes each a test.

    >>> [check.name for check in documentation("athena_core", Path("README.md"))][:2]
    ['README.md runs', 'examples of athena_core run']
    """
    modules = _module_names(importlib.import_module(package))
    return [
        Check(f"{readme.name} runs", partial(_check_readme, readme)),
        *(Check(f"examples of {name} run", partial(_check_examples, name)) for name in modules),
        Check("public names have an example", partial(_check_public, package)),
    ]


def public_modules(module: ModuleType) -> Iterator[ModuleType]:
    """A module, then those inside it whose names have no underscore in front, and so on."""
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if not found.name.startswith("_"):
            with suppress(AthenaError):
                yield from public_modules(importlib.import_module(f"{module.__name__}.{found.name}"))


def public_names(module: ModuleType) -> list[str]:
    """What a module's ``__all__`` exports, without modules; of one that has none, what it defines."""
    names = getattr(module, "__all__", None)
    if names is None:
        own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        return [name for name, value in own.items() if getattr(value, "__module__", "") == module.__name__]
    return [name for name in names if not isinstance(getattr(module, name), ModuleType)]


def _module_names(package: ModuleType) -> list[str]:
    """A package and all its modules, without ``__main__``: importing one runs a command."""
    path, prefix = getattr(package, "__path__", []), f"{package.__name__}."
    inside = pkgutil.walk_packages(path, prefix, onerror=lambda _: None)  # its own check tells
    return sorted([package.__name__, *(m.name for m in inside if not m.name.endswith(".__main__"))])


def _check_readme(readme: Path) -> None:
    code = _python_lines(readme.read_text(encoding="utf-8"))
    assert code.strip(), f"{readme} has no Python block"
    exec(compile(code, str(readme), "exec", dont_inherit=True), {"__name__": "readme"})  # noqa: S102


def _python_lines(text: str) -> str:
    """Markdown with what is outside of its Python blocks made empty: an error names the file's own line."""
    lines, inside = [], False
    for line in text.splitlines():
        begins, ends = line == "```python", line.startswith("```")
        inside = begins or (inside and not ends)
        lines.append(line if inside and not begins else "")
    return "\n".join(lines)


def _check_examples(name: str) -> None:
    said: list[str] = []
    try:
        module = importlib.import_module(name)
    except AthenaError as error:
        raise unittest.SkipTest(str(error)) from error
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder().find(module):
        runner.run(test, out=said.append)
    assert not said, "".join(said)


def _check_public(package: str) -> None:
    missing = [
        f"{module.__name__}.{name}"
        for module in public_modules(importlib.import_module(package))
        for name in public_names(module)
        if _lacks_example(getattr(module, name))
    ]
    assert not missing, f"no example in the docstrings of {', '.join(missing)}"


def _lacks_example(value: object) -> bool:
    return (inspect.isclass(value) or inspect.isroutine(value)) and ">>> " not in (value.__doc__ or "")

"""`athena new`: a package that joins in, and passes its own conformance tests as made."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from athena_core._errors import AthenaError

PLACES = {  # a template's place in the new package
    "pyproject.toml.in": "pyproject.toml",
    "README.md.in": "README.md",
    "src/init.py.in": "src/$module/__init__.py",
    "src/init.pyi.in": "src/$module/__init__.pyi",
    "src/plugin.py.in": "src/$module/_plugin.py",
    "src/recipe.py.in": "src/$module/_recipe.py",
    "src/py.typed.in": "src/$module/py.typed",
    "tests/test_conformance.py.in": "tests/test_conformance.py",
    "tests/test_recipe.py.in": "tests/test_recipe.py",
}

TAKEN = ("F", "Run")  # names that the templates' code imports


def make(folder: Path) -> str:
    """Write a package into ``folder``, named as the folder is; return how to go on.

    Raises AthenaError if the name is not one that a distribution can have, or the folder holds
    something already.
    """
    name = folder.resolve().name
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise AthenaError(f"a package's name is lower case, words joined by `-`; got `{name}`.")
    module = name.replace("-", "_")
    recipe = "".join(word.capitalize() for word in name.split("-"))
    taken = any(keyword.iskeyword(word) or word in TAKEN for word in (module, recipe))
    if taken or importlib.util.find_spec(module) is not None:
        raise AthenaError(
            f"`{name}` is a word of Python or an installed package, or the new one's code has it; choose "
            "another name."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AthenaError(f"{folder} is there already, and not an empty folder; choose another.")
    words = {
        "name": name,
        "module": module,
        "recipe": recipe,
        **_core_bounds(),
    }
    templates = resources.files("athena_core") / "templates"
    for source, place in PLACES.items():
        path = folder / Template(place).substitute(words)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_filled(templates / source, words), encoding="utf-8")
    quoted = shlex.quote(str(folder))
    return (
        f"made {folder}\n"
        f"install it:  pip install -e {quoted}\n"
        f"find it:     athena list recipe\n"
        f"run it:      athena run {name}\n"
        f"test it:     pip install pytest && pytest {quoted}"
    )


def _filled(template: Any, words: dict[str, str]) -> str:
    return Template(template.read_text(encoding="utf-8")).substitute(words)


def _core_bounds() -> dict[str, str]:
    """The running core, and the next release that may break: 0.1.3 gives 0.1 and 0.2."""
    from importlib.metadata import version

    from packaging.version import Version

    major, minor = Version(version("athena-core")).release[:2]
    after = f"0.{minor + 1}" if major == 0 else f"{major + 1}"
    return {"core": f"{major}.{minor}", "next_core": after}

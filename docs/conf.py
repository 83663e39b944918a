"""Sphinx's configuration. What follows from the packages is written into docs/api at each build."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import os
import re
import shutil
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer

from athena_core._cli import main
from athena_core.testing._documentation import public_modules, public_names

ROOT = Path(__file__).resolve().parent.parent
API = ROOT / "docs" / "api"
PROJECTS = [
    tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
]
COMMANDS = ("", "list", "info", "plugins", "kernels", "doctor", "run", "report", "new")

project = "Athena"
copyright = "the Athena authors"  # noqa: A001  Sphinx's word
version = release = PROJECTS[0]["version"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "api/example"]
html_theme = "furo"
html_title = "Athena"
default_role = "py:obj"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
autodoc_inherit_docstrings = False  # torch's own texts stay in torch's own documentation
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
maximum_signature_line_length = 88
napoleon_numpy_docstring = False

matplotlib.use("Agg")


def setup(app: Sphinx) -> None:
    """Write docs/api before Sphinx looks for pages."""
    app.connect("builder-inited", lambda _: write_api())
    app.connect("autodoc-process-docstring", lambda *event: separate_paragraphs(event[-1]))
    app.connect("autodoc-process-signature", lambda *event: spell_defaults(*event[-2:]))
    app.connect("autodoc-skip-member", lambda *event: is_function_default(event[3]) or None)


def write_api() -> None:
    """Write a page for each module with public names, the commands' help, and a package of `athena new`."""
    shutil.rmtree(API, ignore_errors=True)
    (API / "help").mkdir(parents=True)
    pages = [page for metadata in PROJECTS for page in write_package(metadata)]
    entries = "".join(f"   {page}\n" for page in pages)
    title = "API\n===\n\nThe public names of each package.\n\n"
    (API / "index.rst").write_text(f"{title}.. toctree::\n   :maxdepth: 1\n\n{entries}", encoding="utf-8")
    for command in COMMANDS:
        text = help_of(command)
        (API / "help" / f"{command or 'athena'}.txt").write_text(text, encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        main(["new", str(API / "example" / "my-plugin")])


def write_package(metadata: dict[str, Any]) -> list[str]:
    """Write the page of one package, then those of its public modules; return their names."""
    package = importlib.import_module(metadata["name"].replace("-", "_"))
    modules = {module.__name__: module for module in public_modules(package)}
    for name, module in modules.items():
        lines = [name, "=" * len(name), ""]
        lines += [inspect.getdoc(module) or "", "", f".. py:currentmodule:: {name}", ""]
        for public in public_names(module):
            lines += directive(module, public)
        (API / f"{name}.rst").write_text("\n".join(lines), encoding="utf-8")
    return list(modules)


def directive(module: ModuleType, name: str) -> list[str]:
    """Return the directive that documents a name; a name without a docstring fails the build."""
    value = getattr(module, name)
    path = f"{module.__name__}.{name}"
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return [f".. py:data:: {name}", "", f"   {comment_of(module, name)}", ""]
    if not value.__doc__:
        raise ExtensionError(f"{path} has no docstring.")
    if not inspect.isclass(value):
        return [f".. autofunction:: {path}", ""]
    members = [] if issubclass(value, tuple) else ["   :members:"]  # a named tuple's are in its signature
    return [f".. autoclass:: {path}", *members, ""]


def comment_of(module: ModuleType, name: str) -> str:
    """Return the ``#:`` comment of a value, from the file that the stub takes it from."""
    stub = Path(str(module.__file__)).with_suffix(".pyi")
    imports = [node for node in ast.parse(stub.read_text("utf-8")).body if isinstance(node, ast.ImportFrom)]
    origin = next(node.module for node in imports if name in [alias.name for alias in node.names])
    comments = ModuleAnalyzer.for_module(f"{module.__name__}.{origin}").find_attr_docs()
    if ("", name) not in comments:
        raise ExtensionError(f"{module.__name__}.{name} has no `#:` comment.")
    return " ".join(comments["", name]).strip()


def separate_paragraphs(lines: list[str]) -> None:
    """Give a docstring's lines on shapes, errors and sources a paragraph each."""
    starts = ("Shape:", "Shapes:", "Raises ", "Returns ", "Source:")
    lines[:] = [part for line in lines for part in (["", line] if line.startswith(starts) else [line])]


def spell_defaults(signature: str | None, returns: str | None) -> tuple[str | None, str | None]:
    """Write a dataclass's defaults as Python, which Sphinx can break into lines."""
    spelled = (signature or "").replace("<factory>", "...")
    return re.sub(r"<function (\w+)>", r"\1", spelled) or None, returns


def is_function_default(member: object) -> bool:
    """Whether a class's member is the default of a dataclass's field, a function, and no method."""
    return inspect.isfunction(member) and "." not in member.__qualname__


def help_of(command: str) -> str:
    """Return what ``athena COMMAND --help`` prints, 88 columns wide."""
    printed = io.StringIO()
    os.environ["COLUMNS"] = "88"
    with contextlib.redirect_stdout(printed):
        try:
            code = main([*filter(None, [command]), "--help"])
        except SystemExit as ended:
            code = ended.code
    if code:
        raise ExtensionError(f"`athena {command} --help` failed.")
    return printed.getvalue().strip() + "\n"

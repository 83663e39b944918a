"""Distributions that look installed: a folder for `sys.path` with a module and its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

HEAD = """from athena_core import Component, Kernel, Kind, hookimpl
"""


def plugin_source(*components: str, kinds: str = "") -> str:
    """Write a plugin module that offers ``kind/name`` components, whose targets are `builtins.dict`."""
    offered = [name.partition("/")[::2] for name in components]
    body = "".join(f"Component({kind!r}, {name!r}, 'builtins:dict', 'fake'), " for kind, name in offered)
    source = f"{HEAD}\n@hookimpl\ndef athena_components():\n    return [{body}]\n"
    if kinds:
        source += f"\n@hookimpl\ndef athena_kinds():\n    return [Kind({kinds!r}, 'builtins:dict', 'fake')]\n"
    return source


def write_distribution(
    folder: Path,
    name: str,
    source: str | None,
    *,
    version: str = "1.0",
    requires: Sequence[str] = ("athena-core",),
    entry_points: str = "",
) -> None:
    """Put a distribution into ``folder``: a plugin module, its dist-info, and one entry point.

    ``source=None`` leaves the module out, as an orphaned installation does.
    """
    module = f"{name.replace('-', '_').lower()}_plugin"
    folder.mkdir(parents=True, exist_ok=True)
    if source is not None:
        (folder / f"{module}.py").write_text(source)
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    headers = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    headers += [f"Requires-Dist: {requirement}" for requirement in requires]
    (info / "METADATA").write_text("\n".join(headers) + "\n\nRequires-Dist: athena-core>=99 is prose here\n")
    (info / "entry_points.txt").write_text(entry_points or f"[athena]\nmain = {module}\n")

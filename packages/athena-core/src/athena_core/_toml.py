"""Configurations as TOML. TOML has no null: a top-level key ``none`` lists the paths that hold None."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from athena_core._errors import AthenaError

NONE = "none"


def dumps(values: Mapping[str, Any]) -> str:
    """Write primitives, lists and tables, None included, as TOML.

    >>> print(dumps({"steps": 5, "data": None}), end="")
    steps = 5
    none = [
        [
            "data",
        ],
    ]
    >>> loads(dumps({"steps": 5, "data": None})) == {"steps": 5, "data": None}
    True
    """
    import tomli_w

    paths: list[list[str | int]] = []

    def without_none(value: Any, path: list[str | int]) -> Any:
        if isinstance(value, Mapping):
            nones = [key for key, item in value.items() if item is None]
            paths.extend([*path, key] for key in nones)
            return {k: without_none(v, [*path, k]) for k, v in value.items() if v is not None}
        if isinstance(value, (list, tuple)):
            return [without_none(item, [*path, index]) for index, item in enumerate(value)]
        if value is None:  # inside a list: hold the place
            paths.append(path)
            return ""
        return value

    document = without_none(values, [])
    if paths:
        # Tables must come last in TOML, so the list goes before the first of them.
        tables = {key: document.pop(key) for key in list(document) if isinstance(document[key], dict)}
        document = {**document, NONE: paths, **tables}
    return tomli_w.dumps(document)


def loads(text: str, source: str = "configuration") -> dict[str, Any]:
    """Read what `dumps` wrote, or any TOML. A syntax error is an `AthenaError` with its line."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AthenaError(f"{source}: not valid TOML: {error}. Mend that line.") from error
    paths = document.pop(NONE, [])
    try:
        for *parents, last in paths:
            place: Any = document
            for key in parents:
                place = place[key]
            place[last] = None
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise AthenaError(f"{source}: `{NONE}` must list paths of keys; got {paths!r}.") from error
    return document


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file; one that is absent, unreadable or malformed is one line that names it."""
    try:
        return loads(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise AthenaError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise AthenaError(f"{path}: not valid TOML: it is not UTF-8 at byte {error.start}.") from error

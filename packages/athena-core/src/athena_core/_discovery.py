"""Which installed distributions bring a plugin. Metadata is read once; nothing is imported."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, distributions

GROUP = "athena"
CORE = "athena-core"
_HEADER = re.compile(r"^(Name|Version|Requires-Dist):[ \t]*(.*)$", re.MULTILINE | re.IGNORECASE)
_ON_CORE = re.compile(r"athena[-_.]+core(?![-_.\w])", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """An entry point of the group ``athena``, and what its distribution's metadata says.

    Args:
        distribution: its normalised name.
        version: its version.
        entry_point: the entry point's name.
        value: the plugin's module, or ``"module:attribute"``.
        requires_core: its requirements on athena-core, PEP 508.
    """

    distribution: str
    version: str
    entry_point: str
    value: str
    requires_core: tuple[str, ...] = ()


def normalise(name: str) -> str:
    """Spell a distribution's name the one way in which names are compared (PEP 503).

    >>> normalise("Foo_Bar.baz")
    'foo-bar-baz'
    """
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def scan(path: Sequence[str] | None = None) -> list[Found]:
    """List the plugins of the distributions on ``path``, athena-core's own first, then by name.

    A distribution seen twice, as where ``lib64`` links to ``lib``, counts once, the first copy. Without
    ``path`` it is `sys.path` as it was at the first call: one scan a process.

    >>> [found.value for found in scan() if found.distribution == "athena-core"]
    ['athena_core._plugin']
    """
    return list(_scan_installed() if path is None else _scan(distributions(path=list(path))))


@cache
def _scan_installed() -> list[Found]:
    return _scan(distributions())


def _scan(candidates: Iterable[Distribution]) -> list[Found]:
    found: dict[str, list[Found]] = {}
    for candidate in candidates:
        entry_points = _entry_points(_read(candidate, "entry_points.txt"))
        if entry_points:
            name, version, requires_core = _headers(candidate)
            # Metadata without a name is broken; the module tells whose it is.
            name = normalise(name or next(iter(entry_points.values())).partition(".")[0])
            found.setdefault(
                name, [Found(name, version, key, value, requires_core) for key, value in entry_points.items()]
            )
    plugins = [plugin for group in found.values() for plugin in group]
    return sorted(
        plugins, key=lambda plugin: (plugin.distribution != CORE, plugin.distribution, plugin.entry_point)
    )


def _entry_points(text: str) -> dict[str, str]:
    """Read the group's names and values; most distributions have none, and cost one search."""
    entry_points: dict[str, str] = {}
    if f"[{GROUP}]" not in text:
        return entry_points
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]")
        elif section == GROUP and line and line[0] not in "#;":
            name, _, value = line.partition("=")
            entry_points.setdefault(name.strip(), value.strip())
    return entry_points


def _headers(candidate: Distribution) -> tuple[str, str, tuple[str, ...]]:
    """Read name, version and the requirements on athena-core from the headers, not the whole README."""
    metadata = _read(candidate, "METADATA")
    headers: dict[str, list[str]] = {}
    for key, value in _HEADER.findall((metadata or _read(candidate, "PKG-INFO")).partition("\n\n")[0]):
        headers.setdefault(key.lower(), []).append(value.strip())
    # An egg-info folder keeps its requirements in a file of its own.
    requires = headers.get("requires-dist", []) if metadata else candidate.requires or []
    on_core = tuple(line for line in requires if _ON_CORE.match(line))
    return headers.get("name", [""])[0], headers.get("version", ["unknown"])[0], on_core


def _read(candidate: Distribution, name: str) -> str:
    """Read a metadata file; one that is not text belongs to a broken distribution and counts as absent."""
    try:
        return candidate.read_text(name) or ""
    except (OSError, UnicodeDecodeError):
        return ""


@cache
def unmet(requirements: tuple[str, ...], core_version: str) -> str:
    """Return the first of the requirements on athena-core that ``core_version`` fails, or ``""``.

    Those of an extra, or of another platform or Python, do not count; a prerelease does.

    >>> unmet(("athena-core<9,>=0.1",), "0.2rc1")
    ''
    >>> unmet(("athena-core>=9",), "0.2")
    'athena-core>=9'
    """
    from packaging.requirements import InvalidRequirement, Requirement

    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            return text
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and not requirement.specifier.contains(core_version, prereleases=True):
            return text
    return ""

"""The default host's questions, as functions: what there is, and getting it."""

from __future__ import annotations

from typing import Any

from athena_core._component import Component, Kind
from athena_core._host import default_host


def components(kind: str | None = None) -> list[Component]:
    """List what the installed plugins offer, of one kind or of all, by kind and name. Imports none of it.

    Raises AthenaError if no installed plugin declares ``kind`` or offers a component of it.

    >>> [component.name for component in components("tracker")][:1]
    ['jsonl']
    """
    return default_host().components(kind)


def kinds() -> list[Kind]:
    """List the kinds of component that the installed plugins declare, by name.

    >>> "device" in [kind.name for kind in kinds()]
    True
    """
    return default_host().kinds()


def load(kind: str, name: str) -> Any:
    """Import a component: ``"name"``, or ``"distribution/name"`` where two distributions offer one.

    Raises AthenaError if there is no such component, if it is ambiguous, or if it needs something that is
    not installed (with the command that installs it). If its plugin failed, raises what the plugin raised.

    >>> load("device", "athena-core/cpu") is load("device", "cpu")
    True
    """
    return default_host().load(kind, name)


def create(kind: str, name: str, /, *args: Any, **options: Any) -> Any:
    """Import a component and call it with the arguments: ``load(kind, name)(*args, **options)``.

    Raises AthenaError as `load` does, or if it does not take the arguments, with the nearest right option.

    >>> create("device", "cpu").type
    'cpu'
    """
    return default_host().create(kind, name, *args, **options)

"""Parts by name: this package's own at once, any other through the registry."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from athena_compress import _plugin
from athena_core import create, kinds


def build(kind: str, name: str, /, *arguments: Any, **options: Any) -> Any:
    """The component of this name, made with these arguments.

    This package's own are found where plugins are switched off, too. Raises ValueError for what is no name;
    AthenaError for a name that nobody offers and for an option that the component does not take, with the
    nearest right one.

    >>> build("observer", "min-max", axis=0)
    MinMaxObserver(axis=0)
    """
    if not isinstance(name, str):
        raise ValueError(
            f"{kind}: must be a name, or one that was built; got {name!r:.60}. See `athena list {kind}`."
        )
    own = {one: target for one, target, _, _ in _plugin.TABLES.get(kind, ())}
    if name not in own:
        return create(kind, name, *arguments, **options)
    module, _, attribute = own[name].partition(":")
    made = getattr(import_module(module), attribute)
    try:
        return made(*arguments, **options)
    except TypeError:
        if any(one.name == kind for one in kinds()):
            create(kind, name, *arguments, **options)  # says which option was wrong, and the nearest
        raise

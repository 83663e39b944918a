"""A model called with whatever its inputs come in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Call a model with one argument, a tuple or list of them, or a mapping of named ones.

    >>> call(max, (1, 3, 2)), call(dict, {"width": 2})
    (3, {'width': 2})
    """
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)

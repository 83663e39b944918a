"""A model called with whatever its inputs come in, and batches of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Call a model with one argument, a tuple or list of them, or a mapping of named ones.

    >>> call(max, (1, 3, 2)), call(dict, {"width": 2})
    (3, {'width': 2})
    """
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def several(batches: Iterable[Any]) -> Iterable[Any]:
    """The batches. Raises ValueError for a single one, whose rows would be taken for batches.

    >>> import torch
    >>> several([torch.zeros(1, 2)])
    [tensor([[0., 0.]])]
    """
    iterable = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    if isinstance(batches, Tensor | Mapping | str) or not iterable:
        raise ValueError(
            f"`batches` must be several batches, as a list or a DataLoader; got a {type(batches).__name__}. "
            "Put a single one into a list."
        )
    return batches

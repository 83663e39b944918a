"""Whole numbers among the options: of Python, NumPy or torch, and nothing that is rounded silently."""

from __future__ import annotations

import operator
from typing import Any


def whole(name: str, value: Any) -> int:
    """The value as an int. Raises TypeError for what is no whole number, naming it.

    >>> import numpy as np
    >>> whole("k_shot", np.int64(5))
    5
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be a whole number; got {value!r}. Pass an int.") from None

"""The ranges in which an agent's numbers must lie."""

from __future__ import annotations

import math
import sys

LARGEST = sys.float_info.max  #: as an upper bound it admits all numbers but infinity


def in_range(low: float, high: float, **values: float) -> None:
    """Raises ValueError for a value outside [low, high], or NaN.

    >>> in_range(0, 1, gamma=1.5)
    Traceback (most recent call last):
    ...
    ValueError: `gamma` must lie in [0, 1]; got 1.5.
    >>> in_range(1, LARGEST, levels=0)
    Traceback (most recent call last):
    ...
    ValueError: `levels` must be at least 1; got 0.
    """
    for name, value in values.items():
        if not low <= value <= high:
            rule = f"lie in [{low:g}, {high:g}]" if high < LARGEST else f"be at least {low:g}"
            raise ValueError(f"`{name}` must {'be finite' if value == math.inf else rule}; got {value}.")


def positive(**values: float) -> None:
    """Raises ValueError for a value that is not above 0, infinite, or NaN.

    >>> positive(temperature=0.0)
    Traceback (most recent call last):
    ...
    ValueError: `temperature` must be a positive number; got 0.0.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be a positive number; got {value}.")

"""Checks of options that several optimizers share."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any


def check_group(group: Mapping[str, Any]) -> None:
    """Raise ValueError unless the Adam-like options that ``group`` holds are allowed ones.

    torch checks an optimizer's defaults, but not what a single group says instead.

    >>> check_group({"lr": -1.0})
    Traceback (most recent call last):
    ValueError: `lr` must be finite and at least 0; got -1.0.
    """
    for name in ("lr", "eps", "weight_decay"):
        value = group.get(name, 0.0)
        if not (value >= 0 and isfinite(value)):
            raise ValueError(f"`{name}` must be finite and at least 0; got {value}.")
    for index, beta in enumerate(group.get("betas", ())):
        if not 0 <= beta < 1:
            raise ValueError(f"`betas[{index}]` must lie in [0, 1); got {beta}.")

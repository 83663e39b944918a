"""The size of a model, counted in parameters."""

from __future__ import annotations

from torch import nn


def parameter_count(model: nn.Module) -> int:
    """Elements of all parameters, each tied one once.

    >>> parameter_count(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in model.parameters())

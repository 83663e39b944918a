"""Weights that stay as they are given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from athena_multitask._task_weighting import Rows, TaskWeighting


class StaticWeighting(TaskWeighting):
    r"""The sum of the losses, with weights that are given.

    .. math:: L = \sum_i w_i L_i

    Args:
        tasks: see `TaskWeighting`.
        weights: by name; 1 for those that are not named.

    Shape: losses ``()``, the result ``()``.

    Raises ValueError for a weight of an unknown task, or one that is negative or not finite; else see
    `TaskWeighting`.

    Source: common practice, "linear scalarization". Departs from it: no.

    >>> weighting = StaticWeighting(["depth", "segment"], weights={"depth": 0.5})
    >>> weighting({"depth": torch.tensor(4.0), "segment": torch.tensor(1.0)})
    tensor(3.)
    """

    fixed: Tensor

    def __init__(self, tasks: Iterable[str], *, weights: Mapping[str, float] | None = None) -> None:
        super().__init__(tasks)
        weights = weights or {}
        for name, weight in weights.items():
            if name not in self.tasks or not 0 <= weight < math.inf:
                raise ValueError(
                    f"`weights` must be finite, at least 0, and of {list(self.tasks)}; got {weight} for "
                    f"{name!r}. Leave out what is to have the weight 1."
                )
        self.register_buffer("fixed", torch.tensor([float(weights.get(name, 1)) for name in self.tasks]))

    def combine(self, losses: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """The weighted sum, and the weights."""
        weights = self.fixed[rows].to(losses)
        return (weights * losses).sum(), weights

"""Range from the smallest to the largest value seen."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from athena_compress._grid import Grid
from athena_compress._observer import Observer


class MinMaxObserver(Observer):
    r"""The whole range of what was seen, :math:`[\min_t x_t, \max_t x_t]`: nothing is clipped.

    Args:
        axis: one range for each index of this axis; ``None`` for one of everything.

    Shape: any, unchanged. Raises ValueError for NaN and infinity, and for `qparams` without data.
    Source: Krishnamoorthi 2018, arXiv:1806.08342, section 3.1.1. Departs from it: no.

    >>> observer = MinMaxObserver(axis=0)
    >>> for batch in torch.tensor([[[1.0], [0.0]], [[-3.0], [2.54]]]):
    ...     _ = observer(batch)
    >>> observer.qparams(Grid(axis=0))
    (tensor([0.0236, 0.0200]), tensor([0, 0], dtype=torch.int32))
    """

    STATE: ClassVar[dict[str, torch.dtype]] = {"low": torch.float32, "high": torch.float32}
    low: Tensor
    high: Tensor

    def observe(self, rows: Tensor, low: Tensor, high: Tensor) -> None:  # noqa: ARG002
        if self.is_empty:
            self.low, self.high = low, high
        else:
            self.low, self.high = torch.minimum(self.low.float(), low), torch.maximum(self.high.float(), high)

    def span(self, grid: Grid) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return self.low, self.high

"""Range whose ends are moving averages of those of the batches."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from athena_compress._grid import Grid
from athena_compress._observer import Observer


class MovingAverageObserver(Observer):
    r"""Moving averages of the extremes of each batch: follows values that change, as in training.

    .. math::
        l_t = l_{t-1} + m\,(\min x_t - l_{t-1}), \qquad h_t = h_{t-1} + m\,(\max x_t - h_{t-1})

    and the first batch gives :math:`l_1 = \min x_1`, :math:`h_1 = \max x_1`.

    Args:
        momentum: :math:`m` in (0, 1], the share of the newest batch, as in batch normalisation.
        axis: one range for each index of this axis; ``None`` for one of everything.

    Shape: any, unchanged. Raises ValueError for a momentum outside (0, 1], for NaN and infinity, and for
    `qparams` without data.
    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.1. Departs from it: the paper's smoothing
    parameter is 1 - m.

    >>> observer = MovingAverageObserver(momentum=0.5)
    >>> for batch in torch.tensor([[-1.0, 0.0], [-2.0, 4.0]]):
    ...     _ = observer(batch)
    >>> observer.low, observer.high
    (tensor([-1.5000]), tensor([2.]))
    """

    STATE: ClassVar[dict[str, torch.dtype]] = {"low": torch.float32, "high": torch.float32}
    COMMUTES: ClassVar[bool] = False
    low: Tensor
    high: Tensor

    def __init__(self, momentum: float = 0.1, *, axis: int | None = None) -> None:
        if not 0 < momentum <= 1:
            raise ValueError(
                f"`momentum` must lie in (0, 1]; got {momentum}. It is the share of the newest batch."
            )
        super().__init__(axis=axis)
        self.momentum = momentum

    def observe(self, rows: Tensor, low: Tensor, high: Tensor) -> None:  # noqa: ARG002
        if self.is_empty:
            self.low, self.high = low, high
        else:
            before_low, before_high = self.low.float(), self.high.float()
            self.low = before_low + self.momentum * (low - before_low)
            self.high = before_high + self.momentum * (high - before_high)

    def span(self, grid: Grid) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return self.low, self.high

    def extra_repr(self) -> str:
        return ", ".join(filter(None, [f"momentum={self.momentum}", super().extra_repr()]))

"""Observers that keep a histogram, and their search for the range that costs least."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import ClassVar

import torch
from torch import Tensor

from athena_compress._grid import Grid
from athena_compress._observer import Observer
from athena_core import as_float64

#: Width of the narrowest bin as a power of two: what is divided by it stays finite.
LOWEST_EXPONENT = -100
#: Parts of a range that the search tries, and the steps between two of them that it then tries.
COARSE, FINE = 100, 10
#: Numbers that the search holds at once for each of its intermediate results.
MOST_NUMBERS = 2**22

#: From low and high ends, ``(rows, candidates)``, what each costs.
Cost = Callable[[Tensor, Tensor], Tensor]


class BinnedObserver(Observer):
    r"""Keeps a histogram of all values in constant memory, exact counts whatever comes first.

    Bin :math:`k` counts the values in :math:`[k\,2^e, (k+1)\,2^e)`. When a value falls outside, :math:`e`
    rises and pairs of bins are added, which moves no count across an edge: the state depends on the values
    alone, not on their order, and the range always holds 0. Exact zeros, which every grid holds, are
    counted apart.

    Args:
        bins: at least so many cover the range, and at most twice as many.
        axis: one histogram for each index of this axis; ``None`` for one of everything.

    Raises ValueError for fewer than 16 bins, and what every observer raises.

    >>> from athena_compress import PercentileObserver
    >>> observer = PercentileObserver(bins=16)
    >>> _ = observer(torch.tensor([0.0, 0.5, 0.5, 3.9]))
    >>> observer.width(), observer.zeros, observer.counts[0].nonzero().flatten()
    (tensor([0.1250], dtype=torch.float64), tensor([1]), tensor([ 4, 31]))
    """

    STATE: ClassVar[dict[str, torch.dtype]] = {
        "low": torch.float32,
        "high": torch.float32,
        "exponent": torch.int64,
        "zeros": torch.int64,
        "counts": torch.int64,
    }
    low: Tensor
    high: Tensor
    exponent: Tensor
    zeros: Tensor
    counts: Tensor

    def __init__(self, *, bins: int = 2048, axis: int | None = None) -> None:
        if bins < 16:
            raise ValueError(f"`bins` must be at least 16; got {bins}. A range is chosen to within one bin.")
        super().__init__(axis=axis)
        self.bins = bins

    def observe(self, rows: Tensor, low: Tensor, high: Tensor) -> None:
        low, high = low.clamp_max(0), high.clamp_min(0)
        if self.is_empty:
            self.low, self.high = low, high
            self.exponent = self._fitting(low, high)
            self.zeros = torch.zeros_like(self.exponent)
            self.counts = self.exponent.new_zeros(len(low), 2 * self.bins)
        else:
            self._widen(torch.minimum(self.low.float(), low), torch.maximum(self.high.float(), high))
        is_zero = rows == 0
        index = _floors(rows, self.exponent[:, None]) - self.first()[:, None]
        index = index + torch.arange(len(rows), device=rows.device)[:, None] * (2 * self.bins)
        self.counts = self.counts + torch.bincount(index[~is_zero], minlength=self.counts.numel()).reshape_as(
            self.counts
        )
        self.zeros = self.zeros + is_zero.sum(1)

    def qparams(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Scale and zero point; searched in float64, on the host where the device has none."""
        device, able = self.low.device, as_float64(self.low).device
        if able == device:
            return super().qparams(grid)
        scale, zero_point = deepcopy(self).to(able).qparams(grid)
        return scale.to(device), zero_point.to(device)

    def first(self) -> Tensor:
        """Number of each row's first bin, ``(rows,)``: none is above 0."""
        return _floors(self.low.float(), self.exponent)

    def width(self) -> Tensor:
        """Width of each row's bins, ``(rows,)``, float64."""
        return _power_of_two(self.exponent).double()

    def edges(self) -> Tensor:
        """Edges of all bins, ``(rows, 2 bins + 1)``, float64."""
        steps = torch.arange(2 * self.bins + 1, device=self.exponent.device)
        return (self.first()[:, None] + steps) * self.width()[:, None]

    def cheapest(self, grid: Grid, cost: Cost) -> tuple[Tensor, Tensor]:
        """The range, within what was seen, of least ``cost(low, high)``.

        A cost is asked of many candidates at once: ``(rows, candidates)``, ends and costs alike. Both ends
        move together and then, where there are two on an asymmetric grid, each in turn, twice. Of equal
        costs the widest range wins.
        """
        low, high = self.low.double()[:, None], self.high.double()[:, None]
        if grid.symmetric:
            reach = torch.maximum(-low, high)
            part = self._cheapest_part(lambda part: cost(-part * reach, part * reach))
            return (-part * reach)[:, 0], (part * reach)[:, 0]
        left = right = self._cheapest_part(lambda part: cost(part * low, part * high))
        has_two_ends = bool(((low < 0) & (high > 0)).any())
        for _ in range(2 if has_two_ends else 0):
            held = (left * low).expand(-1, COARSE)
            right = self._cheapest_part(lambda part, held=held: cost(held[:, : part.shape[1]], part * high))
            held = (right * high).expand(-1, COARSE)
            left = self._cheapest_part(lambda part, held=held: cost(part * low, held[:, : part.shape[1]]))
        return (left * low)[:, 0], (right * high)[:, 0]

    def extra_repr(self) -> str:
        return ", ".join(filter(None, [f"bins={self.bins}", super().extra_repr()]))

    def _cheapest_part(self, cost: Callable[[Tensor], Tensor]) -> Tensor:
        """The part in (0, 1] of least cost in each row: hundredths, then thousandths around the best."""
        size = max(1, MOST_NUMBERS // self.counts.numel())

        def cheapest(parts: Tensor) -> Tensor:
            costs = torch.cat([cost(some) for some in parts.split(size, dim=1)], dim=1)
            return parts.gather(1, costs.argmin(1, keepdim=True))  # the first and widest of equals

        tried = torch.arange(COARSE, 0, -1, device=self.low.device, dtype=torch.float64) / COARSE
        centre = cheapest(tried.expand(len(self.low), -1))
        steps = torch.arange(FINE - 1, -FINE, -1, device=self.low.device, dtype=torch.float64)
        return cheapest((centre + steps / (COARSE * FINE)).clamp(1 / (COARSE * FINE), 1))

    def _fitting(self, low: Tensor, high: Tensor) -> Tensor:
        """The least exponent at which all bins from ``low`` to ``high`` fit."""
        span = high / self.bins - low / self.bins  # the difference itself may overflow
        exponent = torch.where(span == 0, LOWEST_EXPONENT, torch.frexp(span).exponent.long() - 3)
        exponent = exponent.clamp_min(LOWEST_EXPONENT)
        for _ in range(4):
            needed = _floors(high, exponent) - _floors(low, exponent) + 1
            exponent = exponent + (needed > 2 * self.bins)
        return exponent

    def _widen(self, low: Tensor, high: Tensor) -> None:
        first, exponent = self.first(), self._fitting(low, high)
        steps = torch.arange(2 * self.bins, device=first.device)
        moved = (first[:, None] + steps) >> (exponent - self.exponent)[:, None]
        self.low, self.high, self.exponent = low, high, exponent
        index = (moved - self.first()[:, None]).clamp(0, 2 * self.bins - 1)  # clamped ones are empty
        self.counts = torch.zeros_like(self.counts).scatter_add(1, index, self.counts)


def _floors(x: Tensor, exponent: Tensor) -> Tensor:
    """Number of the bin of width ``2**exponent`` that holds ``x``; exact, as only the exponent changes.

    A negative number whose quotient is too small for float32 is in bin -1, not with 0 in the next.
    """
    quotient = x * _power_of_two(-exponent)
    return quotient.floor().long() - ((quotient == 0) & (x < 0)).long()


def _power_of_two(exponent: Tensor) -> Tensor:
    """Float32, written bit by bit: `torch.exp2` may round."""
    return ((exponent + 127) << 23).to(torch.int32).view(torch.float32)

"""Range that holds a given share of the values seen."""

from __future__ import annotations

import torch
from torch import Tensor

from athena_compress._grid import Grid
from athena_compress._observer_binned import BinnedObserver


class PercentileObserver(BinnedObserver):
    r"""The range that holds a share :math:`p` of all values seen, to within one bin.

    On a symmetric grid the quantile :math:`p` of :math:`|x|`; otherwise from the quantile
    :math:`(1-p)/2` of :math:`x` to the quantile :math:`(1+p)/2`. Ends are rounded outwards to the edge of a
    bin, and not beyond the extremes: at 100 this is `MinMaxObserver`, as far as the range holds 0.

    Args:
        percentile: :math:`100\,p`, in (0, 100].
        bins: the range seen is divided into at least so many.
        axis: one range for each index of this axis; ``None`` for one of everything.

    Shape: any, unchanged. Raises ValueError for a percentile outside (0, 100], for fewer than 16 bins, for
    NaN and infinity, and for `qparams` without data.
    Source: Wu et al. 2020, arXiv:2004.09602, section 3.3, for symmetric grids. Departs from it: asymmetric
    grids, which the paper does not treat.

    >>> observer = PercentileObserver(50, bins=100)
    >>> _ = observer(torch.arange(-1.0, 101.0))
    >>> observer.qparams(Grid())[0] * 127
    tensor(50.)
    """

    def __init__(self, percentile: float = 99.99, *, bins: int = 2048, axis: int | None = None) -> None:
        if not 0 < percentile <= 100:
            raise ValueError(
                f"`percentile` must lie in (0, 100]; got {percentile}. 99.99 clips one value in 10,000."
            )
        super().__init__(bins=bins, axis=axis)
        self.percentile = percentile

    def span(self, grid: Grid) -> tuple[Tensor, Tensor]:
        share, counts = self.percentile / 100, self._with_zeros()
        if grid.symmetric:
            reach = self._reach(counts, share)
            return -reach, reach
        edges = self.edges()
        high = edges.gather(1, _reaching(counts, (1 + share) / 2) + 1)[:, 0]
        low = edges.flip(1).gather(1, _reaching(counts.flip(1), (1 + share) / 2) + 1)[:, 0]
        low, high = torch.maximum(low, self.low.double()), torch.minimum(high, self.high.double())
        return low.clamp_max(0), high.clamp_min(0)

    def _with_zeros(self) -> Tensor:
        """All counts, the zeros in the bin that begins at 0."""
        return self.counts.scatter_add(1, -self.first()[:, None], self.zeros[:, None])

    def _reach(self, counts: Tensor, share: float) -> Tensor:
        """Quantile of the sizes: bins ``k`` and ``-k - 1`` are the same distance from 0."""
        bins = self.first()[:, None] + torch.arange(counts.shape[1], device=counts.device)
        distance = torch.where(bins < 0, -bins - 1, bins).clamp_max(counts.shape[1] - 1)
        sizes = torch.zeros_like(counts).scatter_add(1, distance, counts)
        reach = (_reaching(sizes, share)[:, 0] + 1) * self.width()
        return torch.minimum(reach, torch.maximum(-self.low, self.high).double())

    def extra_repr(self) -> str:
        return f"percentile={self.percentile}, {super().extra_repr()}"


def _reaching(counts: Tensor, share: float) -> Tensor:
    """First bin of each row up to which a share of the row is counted, ``(rows, 1)``."""
    reached = counts.cumsum(1)
    wanted = reached[:, -1:] * (share * (1 - 1e-12))  # a share that rounding put above a whole number
    return torch.searchsorted(reached.double(), wanted)

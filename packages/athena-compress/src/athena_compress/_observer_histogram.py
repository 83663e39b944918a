"""Range whose quantized histogram diverges least from the histogram."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from athena_compress._grid import Grid, choose_qparams
from athena_compress._observer_binned import BinnedObserver

#: What a bin that the grid leaves empty counts as, in values: the divergence stays finite.
LEAST_COUNT = 1e-4


class HistogramObserver(BinnedObserver):
    r"""The clipping whose histogram diverges least from that of the values seen.

    .. math::
        \min_{l, h} \sum_b P_b \log \frac{P_b}{Q_b}

    where :math:`P` is the histogram of the clipped values, those outside counted in the outermost bins, and
    :math:`Q` spreads what each code received from inside evenly over the bins that had any. So both a wide
    code and many clipped values cost. Zeros, which have a code of their own, are left out. Ends are
    thousandths of the extremes.

    Args:
        bins: the range seen is divided into at least so many.
        axis: one range for each index of this axis; ``None`` for one of everything.

    Shape: any, unchanged. Raises ValueError for fewer than 16 bins, for NaN and infinity, and for `qparams`
    without data.
    Source: Migacz 2017, "8-bit inference with TensorRT", GTC (no paper); Wu et al. 2020, arXiv:2004.09602,
    section 3.3, "entropy". Departs from it: both ends are searched, together and then in turn.

    >>> observer = HistogramObserver()
    >>> _ = observer(torch.tensor([100.0, *torch.linspace(-1, 1, 100001)]))
    >>> float(observer.qparams(Grid())[0] * 127) < 60
    True
    """

    def span(self, grid: Grid) -> tuple[Tensor, Tensor]:
        width, first = self.width()[:, None, None], self.first()[:, None, None]
        sums = _Sums.of(self.counts.double())
        borders = torch.arange(grid.low, grid.high + 2, device=width.device) - 0.5

        def cost(low: Tensor, high: Tensor) -> Tensor:
            scale, zero_point = choose_qparams(low, high, grid)
            ends = (borders - zero_point[..., None]) * (scale.double()[..., None] / width)
            starts = (ends - first - 0.5).ceil()  # of the centres of bins
            return _divergence(sums, starts.clamp(0, self.counts.shape[1]).long())

        return self.cheapest(grid, cost)


class _Sums(NamedTuple):
    """Sums over the bins before each bin, and before the end, ``(rows, bins + 1)``."""

    counts: Tensor
    occupied: Tensor
    logs: Tensor  # of counts times their logarithms

    @classmethod
    def of(cls, counts: Tensor) -> _Sums:
        terms = counts, (counts > 0).double(), torch.xlogy(counts, counts)
        return cls(*(F.pad(term.cumsum(1), (1, 0)) for term in terms))


def _divergence(sums: _Sums, starts: Tensor) -> Tensor:
    """Of clipped histograms from their quantized ones; infinite where nothing lies inside.

    Code ``c`` has the bins from ``starts[..., c]`` up to ``starts[..., c + 1]``, so that sums over its bins
    are differences, and the cost of a candidate does not depend on the number of bins.

    Shape: starts ``(rows, candidates, codes + 1) -> (rows, candidates)``.
    """
    counts, n_values = _at(sums.counts, starts), sums.counts[:, -1:]
    totals, occupied = counts.diff(dim=2), _at(sums.occupied, starts).diff(dim=2)
    below, above = counts[..., 0], n_values - counts[..., -1]
    n_kept = n_values - below - above
    means = totals / occupied.clamp_min(1)
    outermost = starts[..., [0, -1]] - starts.new_tensor([0, 1])
    outermost = outermost.clamp(0, sums.counts.shape[1] - 2)
    held = _at(sums.counts, outermost + 1) - _at(sums.counts, outermost)
    codes = torch.searchsorted(starts[..., 1:].contiguous(), outermost, right=True)
    spread = means.gather(2, codes.clamp_max(means.shape[2] - 1))
    spread = torch.where(held > 0, spread, LEAST_COUNT).clamp_min(LEAST_COUNT)
    one = outermost[..., 0] == outermost[..., 1]  # bin inside: it takes all
    clipped = torch.stack((below + above * one, above * ~one), dim=2)
    logs = _at(sums.logs, starts[..., [0, -1]]).diff(dim=2)[..., 0]
    logs = logs + (torch.xlogy(held + clipped, held + clipped) - torch.xlogy(held, held)).sum(2)
    logs = logs - torch.xlogy(totals, means).sum(2) - (clipped * spread.log()).sum(2)
    divergence = logs / n_values - (n_values / n_kept).log()
    # differences of sums leave some of the last digits, which must not decide between equals
    return torch.where(n_kept > 0, divergence.round(decimals=9), torch.inf)


def _at(sums: Tensor, places: Tensor) -> Tensor:
    """``(rows, bins + 1)`` at places ``(rows, ...)``, in the shape of those."""
    return sums.gather(1, places.flatten(1)).view(places.shape)

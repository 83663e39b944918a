"""Range whose quantized histogram diverges least from the histogram."""

from __future__ import annotations

import torch
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
        edges, counts = self.edges(), self.counts.double()
        centres = (edges[:, 1:] + edges[:, :-1]) / 2

        def cost(low: Tensor, high: Tensor) -> Tensor:
            scale, zero_point = choose_qparams(low, high, grid)
            codes = (centres / scale.double()[:, None]).round() + zero_point[:, None] - grid.low
            return _divergence(counts, codes, grid.high - grid.low + 1)

        return self.cheapest(grid, cost)


def _divergence(counts: Tensor, codes: Tensor, n_codes: int) -> Tensor:
    """Of each row's clipped histogram from its quantized one; infinite where nothing lies inside."""
    inside = (codes >= 0) & (codes < n_codes)
    code = codes.clamp(0, n_codes - 1).long()
    kept = counts * inside
    totals = counts.new_zeros(len(counts), n_codes).scatter_add(1, code, kept)
    occupied = torch.zeros_like(totals).scatter_add(1, code, (kept > 0).to(counts.dtype))
    quantized = (totals / occupied.clamp_min(1)).gather(1, code) * (kept > 0)
    outside = counts - kept
    # the outermost bins inside: what lies below is counted in the first, what lies above in the last
    places = torch.arange(counts.shape[1], device=counts.device)
    first = inside.long().argmax(1, keepdim=True)
    last = counts.shape[1] - 1 - inside.flip(1).long().argmax(1, keepdim=True)
    clipped = kept.scatter_add(1, first, (outside * (places < first)).sum(1, keepdim=True))
    clipped = clipped.scatter_add(1, last, (outside * (places > last)).sum(1, keepdim=True))
    n_values, n_kept = clipped.sum(1, keepdim=True), kept.sum(1, keepdim=True)
    ratio = (clipped / n_values) / (quantized.clamp_min(LEAST_COUNT) / n_kept)
    divergence = torch.special.xlogy(
        clipped / n_values, ratio.clamp_min(torch.finfo(torch.float64).tiny)
    ).sum(1)
    return torch.where(inside.any(1) & (n_kept[:, 0] > 0), divergence, torch.inf)

"""Range of least squared error."""

from __future__ import annotations

import torch
from torch import Tensor

from athena_compress._grid import Grid, choose_qparams
from athena_compress._observer_binned import BinnedObserver


class MSEObserver(BinnedObserver):
    r"""The clipping whose quantized values are nearest in the mean square to those seen.

    .. math::
        \min_{l, h} \sum_b c_b\, \frac{s^3}{w} \int_{b/s} (t - \hat q(t))^2\, dt, \qquad
        \hat q(t) = \operatorname{clamp}(\operatorname{round} t, q_\mathrm{low} - z, q_\mathrm{high} - z)

    over the bins :math:`b` of a histogram with counts :math:`c_b`, its values spread evenly over the width
    :math:`w`. The integral is exact: :math:`\hat q(t)/12 + (t - \hat q(t))^3/3` is an antiderivative.
    Zeros, which have a code of their own, cost nothing. Ends are thousandths of the extremes.

    Args:
        bins: the range seen is divided into at least so many.
        axis: one range for each index of this axis; ``None`` for one of everything.

    Shape: any, unchanged. Raises ValueError for fewer than 16 bins, for NaN and infinity, and for `qparams`
    without data.
    Source: the criterion of Sung et al. 2015, arXiv:1511.06488, section 3 (L2 error). Departs from it: the
    search, over both ends together and then in turn, and the histogram.

    >>> observer = MSEObserver()
    >>> _ = observer(torch.tensor([100.0, *torch.linspace(-1, 1, 100001)]))
    >>> float(observer.qparams(Grid(bits=3))[0] * 3) < 60
    True
    """

    def span(self, grid: Grid) -> tuple[Tensor, Tensor]:
        edges, counts, width = self.edges()[:, None], self.counts.double()[:, None], self.width()[:, None]

        def cost(low: Tensor, high: Tensor) -> Tensor:
            scale, zero_point = choose_qparams(low, high, grid)
            step, middle = scale.double()[..., None], zero_point[..., None]
            integral = _error_integral(edges / step, grid.low - middle, grid.high - middle)
            return (counts * integral.diff(dim=2)).sum(2) * scale.double() ** 3 / width

        return self.cheapest(grid, cost)


def _error_integral(t: Tensor, low: Tensor, high: Tensor) -> Tensor:
    r"""Antiderivative of the squared error of rounding :math:`u` to integers from ``low`` to ``high``."""
    code = torch.minimum(torch.maximum(t.round(), low), high)
    return code / 12 + (t - code) ** 3 / 3

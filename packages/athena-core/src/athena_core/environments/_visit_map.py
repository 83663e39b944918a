"""Where an agent has been: counts over the cells of a box, for coverage and heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class VisitMap:
    r"""Visits of points in :math:`[low, high]`, counted in a grid of ``bins`` equal cells.

    ``counts`` has the shape of ``bins``. Points outside, and those with a NaN, are in no cell.

    Args:
        low, high: the corners ``(D,)``, finite.
        bins: cells an axis, as many numbers as axes.
        reachable: which cells can be visited at all, of the shape ``bins``; all if left out.

    Raises ValueError for corners that are none, or shapes that differ.

    >>> visits = VisitMap([0, 0], [1, 1], [2, 2])
    >>> visits.add([[0.1, 0.9], [0.2, 0.6], [1.0, 1.0], [5.0, 0.0]])
    >>> visits.counts
    array([[0, 2],
           [0, 1]])
    >>> visits.coverage
    0.5
    """

    def __init__(
        self,
        low: ArrayLike,
        high: ArrayLike,
        bins: Sequence[int],
        *,
        reachable: NDArray[np.bool_] | None = None,
    ) -> None:
        self.low, self.high = (np.atleast_1d(np.asarray(corner, dtype=np.float64)) for corner in (low, high))
        self.bins = tuple(int(count) for count in bins)
        if not (self.low.shape == self.high.shape == (len(self.bins),) and min(self.bins, default=0) > 0):
            raise ValueError(
                f"`low`, `high` and `bins` must be as long as there are axes, `bins` above 0; got "
                f"{self.low}, {self.high} and {self.bins}."
            )
        if not bool((np.isfinite(self.low) & np.isfinite(self.high) & (self.low < self.high)).all()):
            raise ValueError(
                f"`low` must be below `high`, both finite; got {self.low} and {self.high}. Give the bounds "
                "within which visits are to be seen."
            )
        self.reachable = np.ones(self.bins, dtype=np.bool_) if reachable is None else np.asarray(reachable)
        if self.reachable.shape != self.bins or self.reachable.dtype != np.bool_:
            raise ValueError(
                f"`reachable` must be booleans of the shape {self.bins}; got {self.reachable.dtype} of "
                f"{self.reachable.shape}."
            )
        self.counts = np.zeros(self.bins, dtype=np.int64)

    def add(self, points: ArrayLike) -> None:
        """Count points ``(..., D)``. Raises ValueError for another number of axes."""
        points = np.asarray(points, dtype=np.float64)
        if points.ndim == 0 or points.shape[-1] != len(self.bins):
            raise ValueError(
                f"`points` must have the shape (..., {len(self.bins)}); got {points.shape}. Give one "
                "number an axis."
            )
        points = points.reshape(-1, len(self.bins))
        inside = points[((points >= self.low) & (points <= self.high)).all(1)]  # NaN compares as False
        place = (inside - self.low) / (self.high - self.low) * self.bins
        last = np.array(self.bins) - 1
        cells = np.minimum(place.astype(np.int64), last)  # the upper edge belongs to the last cell
        flat = np.ravel_multi_index(tuple(cells.T), self.bins)
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.bins)

    @property
    def coverage(self) -> float:
        """The share of the reachable cells that were visited."""
        return float((self.counts[self.reachable] > 0).mean()) if self.reachable.any() else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for the counts of another grid."""
        counts = np.asarray(state["counts"])
        if counts.shape != self.bins:
            raise ValueError(
                f"`state` must hold counts of the shape {self.bins}; got {counts.shape}. Make the map with "
                "the bins it was saved with."
            )
        self.counts = counts.astype(np.int64)

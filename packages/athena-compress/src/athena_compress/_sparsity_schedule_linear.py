"""Sparsity that rises along a line."""

from __future__ import annotations

from athena_compress._sparsity_schedule import SparsitySchedule


class LinearSchedule(SparsitySchedule):
    r"""As much at each step as at any other: :math:`r(x) = x`.

    Args:
        final, steps, begin, initial, every: as in `SparsitySchedule`.

    Raises ValueError and TypeError as `SparsitySchedule` does.
    Source: the family of Zhu & Gupta 2017, arXiv:1710.01878, eq. 1, with the exponent 1. Departs from it: no.

    >>> schedule = LinearSchedule(0.5, steps=4)
    >>> [schedule(step) for step in range(6)]
    [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]
    """

    def rise(self, progress: float) -> float:
        return progress

"""Sparsity by an equal share of what is left, each time."""

from __future__ import annotations

from math import expm1, log1p

from athena_compress._sparsity_schedule import SparsitySchedule


class ExponentialSchedule(SparsitySchedule):
    r"""Each change prunes the same share of what is left: the kept share falls geometrically.

    .. math:: 1 - s_t = (1 - s_i)\, \Big(\frac{1 - s_f}{1 - s_i}\Big)^{x}

    at the share :math:`x` of the steps. With ``steps`` the number of rounds it is the iterative pruning of
    lottery tickets, which removes :math:`p^{1/n}` percent of the weights that survived each round.

    Args:
        final, steps, begin, initial, every: as in `SparsitySchedule`.

    Raises ValueError and TypeError as `SparsitySchedule` does.
    Source: Frankle & Carbin 2019, arXiv:1803.03635, section 1. Departs from it: no.

    >>> schedule = ExponentialSchedule(0.75, steps=2)
    >>> [schedule(step) for step in range(4)]
    [0.0, 0.5, 0.75, 0.75]
    """

    def rise(self, progress: float) -> float:
        if self.final == self.initial:
            return progress
        rate = log1p(-self.final) - log1p(-self.initial)  # of the kept share, below 0
        return expm1(progress * rate) / expm1(rate)

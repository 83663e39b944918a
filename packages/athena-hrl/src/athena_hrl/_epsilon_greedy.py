"""The choice of a learner with tables: the best, or now and then any."""

from __future__ import annotations

import numpy as np


def epsilon_greedy_index(values: list[float], *, epsilon: float, random: np.random.Generator) -> int:
    r"""The place of the highest value, of equal ones any; with probability :math:`\epsilon` any of all.

    Nothing is drawn where nothing is open: with ``epsilon`` 0, and for the one best.

    >>> epsilon_greedy_index([1.0, 3.0, 2.0], epsilon=0.0, random=np.random.default_rng(0))
    1
    """
    if epsilon and random.random() < epsilon:
        return int(random.integers(len(values)))
    best = max(values)
    if values.count(best) == 1:
        return values.index(best)
    ties = [place for place, value in enumerate(values) if value == best]
    return ties[int(random.integers(len(ties)))]

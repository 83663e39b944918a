"""The cubic schedule of gradual pruning: fast while much is redundant, slow towards the end."""

from __future__ import annotations

from athena_compress._sparsity_schedule import SparsitySchedule


class CubicSchedule(SparsitySchedule):
    r"""Gradual pruning, fast at first: :math:`r(x) = 1 - (1 - x)^3`.

    .. math:: s_t = s_f + (s_i - s_f)\Big(1 - \frac{t - t_0}{n \Delta t}\Big)^3,
        \qquad t \in \{t_0, t_0 + \Delta t, \dots, t_0 + n \Delta t\}

    Args:
        final: :math:`s_f`.
        steps: :math:`n \Delta t`.
        begin: :math:`t_0`.
        initial: :math:`s_i`.
        every: :math:`\Delta t`, steps between two changes; the paper uses 100 to 1000.

    Raises ValueError and TypeError as `SparsitySchedule` does.
    Source: Zhu & Gupta 2017, arXiv:1710.01878, eq. 1. Departs from it: ``steps`` need not be a multiple
    of ``every``; the last interval is then the shorter one.

    >>> schedule = CubicSchedule(0.8, steps=4)
    >>> [round(schedule(step), 4) for step in range(6)]
    [0.0, 0.4625, 0.7, 0.7875, 0.8, 0.8]
    """

    def rise(self, progress: float) -> float:
        left = 1 - progress
        return 1 - left * left * left

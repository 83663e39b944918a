"""Sparsity schedules: which share is pruned after how many steps."""

from __future__ import annotations

from abc import ABC, abstractmethod


class SparsitySchedule(ABC):
    r"""The share that is pruned after a number of steps, a pure function of that number.

    .. math::
        s_t = \begin{cases}
            0 & t < b \\
            s_i + (s_f - s_i)\, r\big(\tfrac{\Delta}{n} \lfloor \tfrac{t - b}{\Delta} \rfloor\big)
                & b \le t < b + n \\
            s_f & t \ge b + n
        \end{cases}

    with :math:`s_f` = ``final``, :math:`s_i` = ``initial``, :math:`b` = ``begin``, :math:`n` = ``steps``,
    :math:`\Delta` = ``every``. A subclass says in `rise` how :math:`r` goes from 0 to 1. The end points
    are exact, bit for bit, and the share never falls. As nothing but the step enters, a resumed run sees
    what the uninterrupted one sees.

    Args:
        final: share pruned in the end, in [0, 1).
        steps: steps from ``initial`` to ``final``.
        begin: the step, counted from 0 before the first update of the optimizer, at which pruning begins.
        initial: share pruned at ``begin``, at most ``final``.
        every: steps between two changes. The last one is at ``begin + steps`` in any case.

    Raises ValueError for options outside of their ranges, TypeError for steps that are not whole numbers.
    Source: the form of Zhu & Gupta 2017, arXiv:1710.01878, eq. 1, with any :math:`r`. Departs from it: no.

    >>> class Squared(SparsitySchedule):
    ...     def rise(self, progress):
    ...         return progress * progress
    >>> schedule = Squared(0.8, steps=4)
    >>> [schedule(step) for step in range(6)]
    [0.0, 0.05, 0.2, 0.45, 0.8, 0.8]
    """

    def __init__(
        self, final: float, *, steps: int, begin: int = 0, initial: float = 0.0, every: int = 1
    ) -> None:
        if not 0 <= final < 1:
            raise ValueError(
                f"`final` must lie in [0, 1); got {final}. It is the share that is pruned: 0.9 keeps a tenth."
            )
        if not 0 <= initial <= final:
            raise ValueError(f"`initial` must lie in [0, {final}], as `final` is; got {initial}. 0 is usual.")
        for name, value, least in (("steps", steps, 0), ("begin", begin, 0), ("every", every, 1)):
            check_whole(name, value, least)
        self.final = float(final)
        self.steps = steps
        self.begin = begin
        self.initial = float(initial)
        self.every = every

    @abstractmethod
    def rise(self, progress: float) -> float:
        """The share of the way from ``initial`` to ``final``, at this share of the steps in [0, 1)."""

    def __call__(self, step: int) -> float:
        """The share that is pruned after ``step`` steps. Raises ValueError for a step below 0."""
        check_whole("step", step, 0)
        since = step - self.begin
        if since >= self.steps:
            return self.final if since >= 0 else 0.0
        if since < self.every:
            return self.initial if since >= 0 else 0.0
        progress = since // self.every * self.every / self.steps
        share = self.initial + (self.final - self.initial) * self.rise(progress)
        return min(max(share, self.initial), self.final)  # rounding must not pass the ends

    def __repr__(self) -> str:
        options = f"steps={self.steps}, begin={self.begin}, initial={self.initial}, every={self.every}"
        return f"{type(self).__name__}({self.final}, {options})"


def check_whole(name: str, value: int, least: int) -> None:
    """Raises TypeError unless ``value`` is a whole number, ValueError unless it is at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a whole number of steps; got {value!r}. Round it.")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}; got {value}. Count steps of the optimizer.")

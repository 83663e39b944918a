"""The weight of the intrinsic reward against the extrinsic one, constant or changing over training."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


class Coefficient:
    r"""The coefficient :math:`\beta` of :math:`r + \beta b` over training, refused where it is no weight.

    .. math:: \beta(p), \qquad p = 1 - \frac{t}{T} \text{ the share of training that remains, from 1 to 0,}

    the argument that Stable-Baselines3 gives its schedules. `linear` and `exponential` make the usual ones.

    Args:
        value: a constant, or any function of :math:`p`.

    Raises ValueError for a constant that is negative, infinite or NaN, and in use for such a value of the
    function.

    >>> Coefficient(0.5)(1.0), Coefficient(lambda remaining: remaining**2)(0.5)
    (0.5, 0.25)
    """

    def __init__(self, value: float | Schedule) -> None:
        self.value = value if callable(value) else _checked(float(value), "value")

    @classmethod
    def linear(cls, start: float, end: float = 0.0, *, until: float = 1.0) -> Coefficient:
        r"""A straight line from ``start`` to ``end`` over the first ``until`` of training, ``end`` after it.

        .. math:: \beta(p) = \beta_0 + (\beta_1 - \beta_0) \min\Bigl(\frac{1 - p}{u}, 1\Bigr)

        Raises ValueError for a value that is no weight, or if ``until`` lies outside (0, 1].

        >>> [Coefficient.linear(1.0, until=0.5)(remaining) for remaining in (1.0, 0.75, 0.5, 0.0)]
        [1.0, 0.5, 0.0, 0.0]
        """
        for name, value in (("start", start), ("end", end)):
            _checked(value, name)
        if not 0 < until <= 1:
            raise ValueError(f"`until` must lie in (0, 1]; got {until}. It is a share of training.")

        def schedule(remaining: float) -> float:
            share = min(max((1 - remaining) / until, 0.0), 1.0)
            return start * (1 - share) + end * share

        return cls(schedule)

    @classmethod
    def exponential(cls, start: float, end: float) -> Coefficient:
        r"""From ``start`` to ``end``, by the same factor in equal times.

        .. math:: \beta(p) = \beta_0^{\,p}\,\beta_1^{\,1 - p}

        Raises ValueError if one is not positive: an exponential decay never reaches 0.

        >>> [round(Coefficient.exponential(1.0, 0.01)(remaining), 4) for remaining in (1.0, 0.5, 0.0)]
        [1.0, 0.1, 0.01]
        """
        for name, value in (("start", start), ("end", end)):
            if _checked(value, name) == 0:
                raise ValueError(
                    f"`{name}` must be positive; got {value}. Take `Coefficient.linear` to reach 0."
                )
        return cls(lambda remaining: start * (end / start) ** (1 - remaining))

    def __call__(self, progress_remaining: float) -> float:
        if not callable(self.value):
            return self.value
        return _checked(float(self.value(progress_remaining)), f"coefficient at {progress_remaining:g}")


def as_coefficient(value: float | Schedule) -> Coefficient:
    """A `Coefficient` of a number or function; one that is a `Coefficient` already stays itself.

    >>> as_coefficient(0.5)(0.3)
    0.5
    """
    return value if isinstance(value, Coefficient) else Coefficient(value)


def _checked(value: float, name: str) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(
            f"`{name}` must be a finite number of at least 0; got {value}. Take 0 to have no bonus."
        )
    return value

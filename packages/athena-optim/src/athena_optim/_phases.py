"""The phases of a schedule: their lengths, checked, and the warm-up and fall that most are made of."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from numbers import Real
from operator import index


def whole(name: str, value: int, least: int) -> int:
    """``value`` as an int.

    Raises TypeError unless it is an integer, ValueError if it is below ``least``.

    >>> whole("total_steps", 1e4, least=1)
    Traceback (most recent call last):
    TypeError: `total_steps` must be an integer; got 10000.0. Round it to whole steps.
    """
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be an integer; got {value!r}. Round it to whole steps.") from None
    if number < least:
        raise ValueError(f"`{name}` must be at least {least}; got {number}.")
    return number


def check_number(name: str, value: float) -> None:
    """Raise TypeError unless ``value`` is a real number."""
    if not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number; got {value!r}. Convert it, or leave it out.")


def check_ratio(name: str, value: float) -> None:
    """Raise TypeError unless ``value`` is a number, ValueError unless it lies in [0, 1]."""
    check_number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must lie in [0, 1], a share of the full rate; got {value}.")


def lengths(total_steps: int | None, **phases: int | float) -> list[int]:
    """Length of each of ``phases`` in steps.

    An int is a number of steps, a float a share of ``total_steps``, rounded down: 1 is one step and
    1.0 the whole run. A share is taken as the decimal it is written as, so 0.29 of 100 steps are 29,
    although the float next to it is a little less.

    Raises ValueError for a share outside [0, 1] or without ``total_steps``, a negative length, and
    phases that are together longer than the run; TypeError for a number that is not whole.

    >>> lengths(100, warmup_steps=0.29, decay_steps=10)
    [29, 10]
    """
    total = None if total_steps is None else whole("total_steps", total_steps, least=1)
    found = []
    for name, value in phases.items():
        if not isinstance(value, float):
            found.append(whole(name, value, least=0))
        elif not 0 <= value <= 1:
            raise ValueError(f"`{name}` as a share must lie in [0, 1]; got {value}. Give steps as an int.")
        elif total is None:
            raise ValueError(
                f"`{name}` as a share must come with `total_steps`; got {value} of None. "
                "Give the total too, or steps as an int."
            )
        else:
            found.append(int(Fraction(repr(float(value))) * total))  # float(): NumPy's repr is another
    if total is not None and sum(found) > total:
        names, sizes = " + ".join(f"`{name}`" for name in phases), " + ".join(map(str, found))
        raise ValueError(
            f"{names} must be at most `total_steps` = {total}; got {sizes}. "
            "Shorten the phases, lengthen the run, or give shares of it, such as 0.1."
        )
    return found


def warmup_then_hold(step: int, warmup_steps: int | float, total_steps: int | None) -> tuple[float, int]:
    r"""Share :math:`\min(1, (t+1)/(w+1))` of the full rate, and the warm-up :math:`w` in steps.

    The first step has a rate above 0, and step :math:`w` is the first with the full one.

    >>> [warmup_then_hold(step, 3, None)[0] for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    (warmup,) = lengths(total_steps, warmup_steps=warmup_steps)
    return min(1.0, (whole("step", step, least=0) + 1) / (warmup + 1)), warmup


def warmup_then_fall(
    step: int,
    fall: Callable[[float, float], float],
    *,
    warmup_steps: int | float,
    total_steps: int,
    min_ratio: float,
    decay_steps: int | float | None = None,
) -> float:
    r"""Share of the full rate: linear warm-up, the full rate, and a fall over the last :math:`d` steps.

    .. math::
        f(t) = \begin{cases}
            (t+1)/(w+1) & t < w \\
            1 & w \le t \le T - d \\
            g\big((T-t)/d,\, r\big) & T - d < t < T \\
            r & t \ge T
        \end{cases}

    with :math:`w` = ``warmup_steps``, :math:`T` = ``total_steps``, :math:`d` = ``decay_steps``, by
    default all that the warm-up leaves, and :math:`r` = ``min_ratio``. :math:`g` = ``fall`` takes the
    share of the fall that is left, and :math:`r`; it is 1 where all is left and :math:`r` where
    nothing is. It takes what is left, not what is over, because near the end only the former is exact.

    Raises ValueError or TypeError for options or a step that are not allowed.

    >>> halve = lambda left, ratio: ratio + (1 - ratio) * left
    >>> options = dict(warmup_steps=1, total_steps=5, min_ratio=0.0, decay_steps=2)
    >>> [warmup_then_fall(step, halve, **options) for step in range(7)]
    [0.5, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    """
    total = whole("total_steps", total_steps, least=1)
    check_ratio("min_ratio", min_ratio)
    step = whole("step", step, least=0)
    if decay_steps is None:
        (warmup,) = lengths(total, warmup_steps=warmup_steps)
        decay = total - warmup
    else:
        warmup, decay = lengths(total, warmup_steps=warmup_steps, decay_steps=decay_steps)
    if step >= total:
        return min_ratio
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return fall((total - step) / decay, min_ratio) if step > total - decay else 1.0

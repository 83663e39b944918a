"""Numbers that change while an agent learns."""

from __future__ import annotations

from collections.abc import Callable

Schedule = float | Callable[[int], float]  #: a constant, or a function of a count


def check_schedules(**schedules: Schedule) -> None:
    """Raises ValueError for one that lies outside [0, 1] at 1 already.

    >>> check_schedules(step_size=0.5, epsilon=lambda steps: 1 / steps)
    """
    for name, schedule in schedules.items():
        scheduled(schedule, 1, name=name)


def scheduled(schedule: Schedule, count: int, *, name: str) -> float:
    """The value at a count. Raises ValueError for one outside [0, 1].

    >>> scheduled(lambda visits: 1 / visits, 4, name="step_size")
    0.25
    """
    value = float(schedule(count) if callable(schedule) else schedule)
    if not 0 <= value <= 1:
        at = f" at {count}" if callable(schedule) else ""
        raise ValueError(f"`{name}` must lie in [0, 1]; got {value}{at}.")
    return value

"""The laws of sparsity schedules: what the conformance kit asks of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler

from athena_compress._sparsity_schedule import SparsitySchedule
from athena_core import Component
from athena_core.testing import Check

ScheduleFactory = Callable[..., SparsitySchedule]
EXAMPLE_STEPS = 1000
_FINALS = (0.1, 0.7, 0.9, 0.999, 0.0)


def _falling(optimizer: Optimizer) -> LRScheduler:
    return LinearLR(optimizer, 1.0, 0.0, EXAMPLE_STEPS)


def _make(target: ScheduleFactory, final: float, **options: Any) -> SparsitySchedule:
    """A schedule to ``final`` with what it takes of these options, and of the steps."""
    wanted = inspect.signature(target).parameters
    options = {"steps": EXAMPLE_STEPS, "schedule": _falling} | options
    return target(final, **{name: value for name, value in options.items() if name in wanted})


def example_sparsity_schedule(target: ScheduleFactory) -> SparsitySchedule:
    """A schedule of 1,000 steps, where it has steps, to 0.9."""
    return _make(target, 0.9)


def _ends_are_exact(target: ScheduleFactory) -> None:
    for final in _FINALS:
        schedule = _make(target, final)
        assert schedule(0) == 0, f"{schedule(0)} at step 0"
        for step in (EXAMPLE_STEPS, EXAMPLE_STEPS + 1, 10 * EXAMPLE_STEPS):
            assert schedule(step) == final, f"{schedule(step)} at step {step}, not {final}"


def _never_falls(target: ScheduleFactory) -> None:
    for final in _FINALS:
        for options in ({}, {"begin": 13, "every": 7, "initial": final / 3}):
            schedule = _make(target, final, **options)
            shares = [schedule(step) for step in range(EXAMPLE_STEPS + 20)]
            assert shares == sorted(shares), "a share falls"
            assert 0 <= shares[0] <= shares[-1] == final


def _depends_on_the_step_alone(target: ScheduleFactory) -> None:
    schedule, again = example_sparsity_schedule(target), example_sparsity_schedule(target)
    forwards = [schedule(step) for step in range(EXAMPLE_STEPS)]
    backwards = [again(step) for step in reversed(range(EXAMPLE_STEPS))]
    assert forwards == backwards[::-1], "the order of the calls matters"


def _rests_between_changes(target: ScheduleFactory) -> None:
    schedule = _make(target, 0.9, every=100)
    if not hasattr(schedule, "every") or schedule.every != 100:
        return
    assert len({schedule(step) for step in range(EXAMPLE_STEPS + 1)}) <= 11


def sparsity_schedule_checks(component: Component, target: ScheduleFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of a sparsity schedule."""
    laws = {
        "0 at first and the final share in the end, exactly": _ends_are_exact,
        "never falls": _never_falls,
        "depends on the step alone": _depends_on_the_step_alone,
        "rests between changes": _rests_between_changes,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))

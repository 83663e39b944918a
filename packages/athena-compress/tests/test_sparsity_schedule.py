"""Sparsity schedules: the papers' formulas, exact ends, refusals."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LambdaLR

from athena_compress import (
    ComponentSchedule,
    ConstantSchedule,
    CubicSchedule,
    ExponentialSchedule,
    LinearSchedule,
    SparsitySchedule,
    _plugin,
)
from athena_compress._sparsity_schedule_laws import sparsity_schedule_checks
from athena_core import AthenaError, Component, Kind, create, hookimpl

SCHEDULES = [ConstantSchedule, LinearSchedule, CubicSchedule, ExponentialSchedule, ComponentSchedule]
CHECKS = [
    pytest.param(check, id=f"{target.__name__}: {check.name}")
    for target in SCHEDULES
    for check in sparsity_schedule_checks(Component("sparsity-schedule", "x", "x:x", "x"), target)
]


@pytest.mark.parametrize("check", CHECKS)
def test_laws(check: Any) -> None:
    check()


@given(
    final=st.floats(0.01, 0.999),
    share=st.floats(0, 1),
    begin=st.integers(0, 50),
    changes=st.integers(1, 30),
    every=st.integers(1, 20),
)
def test_cubic_is_the_papers_formula(
    final: float, share: float, begin: int, changes: int, every: int
) -> None:
    initial = share * final
    schedule = CubicSchedule(final, steps=changes * every, begin=begin, initial=initial, every=every)
    for change in range(changes + 1):  # t = t_0 + change * every, eq. 1
        expected = final + (initial - final) * (1 - change / changes) ** 3
        for step in range(every if change < changes else 5):
            assert schedule(begin + change * every + step) == pytest.approx(expected, abs=1e-12)
    assert schedule(begin + changes * every) == final
    assert schedule(begin) == initial
    assert begin == 0 or schedule(begin - 1) == 0


@given(
    schedule=st.sampled_from([LinearSchedule, CubicSchedule, ExponentialSchedule]),
    final=st.floats(0, 0.9999),
    share=st.floats(0, 1),
    steps=st.integers(0, 300),
    every=st.integers(1, 70),
)
def test_ends_are_exact_and_nothing_falls(
    schedule: type[SparsitySchedule], final: float, share: float, steps: int, every: int
) -> None:
    made = schedule(final, steps=steps, initial=share * final, every=every)
    shares = [made(step) for step in range(steps + 2)]
    assert shares == sorted(shares)
    assert shares[steps] == shares[-1] == final
    assert shares[0] == (share * final if steps else final)


def test_exponential_prunes_the_same_share_of_the_rest_each_time() -> None:
    schedule = ExponentialSchedule(1 - 0.8**10, steps=10)
    kept = [1 - schedule(step) for step in range(11)]
    assert [later / earlier for earlier, later in pairwise(kept)] == pytest.approx([0.8] * 10)


def test_a_last_interval_may_be_shorter() -> None:
    schedule = LinearSchedule(0.5, steps=10, every=4)
    assert [schedule(step) for step in (3, 4, 7, 8, 9, 10)] == [0, 0.2, 0.2, 0.4, 0.4, 0.5]


def test_begin_counts_for_one_shot() -> None:
    schedule = ConstantSchedule(0.7, begin=5)
    assert [schedule(step) for step in (0, 4, 5, 6)] == [0, 0, 0.7, 0.7]


def test_component_follows_one_minus_the_rate() -> None:
    schedule = ComponentSchedule(0.6, lambda optimizer: CosineAnnealingLR(optimizer, 20), steps=20)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = CosineAnnealingLR(optimizer, 20)
    for step in range(21):
        rate = optimizer.param_groups[0]["lr"]
        assert schedule(step) == pytest.approx(0.6 * (1 - rate / 0.5), abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_component_waits_for_the_warm_up_and_never_falls_after_a_restart() -> None:
    def warmup(optimizer: Any) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: (step + 1) / 5 if step < 4 else (10 - step) / 6)

    schedule = ComponentSchedule(0.9, warmup, steps=10)
    assert [schedule(step) for step in range(5)] == [0] * 5
    assert 0 < schedule(5) < schedule(9) < schedule(10) == 0.9

    restarts = ComponentSchedule(0.9, lambda o: CosineAnnealingWarmRestarts(o, 5), steps=9)
    shares = [restarts(step) for step in range(10)]
    assert shares == sorted(shares)
    assert shares[5] == shares[6] == shares[4]


class Parts:
    """Schedules, as another package offers them."""

    @hookimpl
    def athena_kinds(self) -> list[Kind]:
        return [Kind("schedule", "torch.optim.lr_scheduler:LRScheduler", "Sets learning rates")]

    @hookimpl
    def athena_components(self) -> list[Component]:
        return [
            Component("schedule", "one-cycle", "torch.optim.lr_scheduler:OneCycleLR", "Up and down"),
            Component("schedule", "polynomial", "torch.optim.lr_scheduler:PolynomialLR", "A power"),
        ]


def test_component_comes_from_the_registry(athena_host: Any) -> None:
    athena_host.register(Parts(), "parts", "1.0", "parts")
    line = ComponentSchedule(0.5, "polynomial", steps=10, total_iters=10)
    assert [line(step) for step in (0, 5, 10)] == pytest.approx([0, 0.25, 0.5])
    cycle = ComponentSchedule(0.5, "one-cycle", steps=11, max_lr=1.0, total_steps=12)
    assert cycle(2) == 0  # it rises until then
    assert cycle(11) == 0.5
    given = ComponentSchedule(0.5, "one-cycle", steps=11, max_lr=1.0)  # which asks for `total_steps`
    same = ComponentSchedule(0.5, "one-cycle", steps=11, max_lr=1.0, total_steps=11)
    assert [given(step) for step in range(13)] == [same(step) for step in range(13)]
    with pytest.raises(AthenaError, match="polynomial"):
        ComponentSchedule(0.5, "polynomal", steps=10)


def test_schedules_come_from_the_registry(athena_host: Any) -> None:
    athena_host.register(_plugin, "athena-compress", "0.1.0", "compress")
    schedule = create("sparsity-schedule", "cubic", 0.5, steps=10)
    assert isinstance(schedule, CubicSchedule)
    with pytest.raises(AthenaError, match="begin"):
        create("sparsity-schedule", "cubic", 0.5, steps=10, begins=3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"final": 1.0}, "`final` must lie in"),
        ({"final": -0.1}, "`final` must lie in"),
        ({"final": float("nan")}, "`final` must lie in"),
        ({"initial": 0.6}, "`initial` must lie in"),
        ({"steps": -1}, "`steps` must be at least 0"),
        ({"begin": -1}, "`begin` must be at least 0"),
        ({"every": 0}, "`every` must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CubicSchedule(**({"final": 0.5, "steps": 10} | options))


def test_what_is_not_a_step_is_refused() -> None:
    with pytest.raises(TypeError, match="`steps` must be a whole number"):
        LinearSchedule(0.5, steps=1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`step` must be at least 0"):
        LinearSchedule(0.5, steps=2)(-1)
    with pytest.raises(ValueError, match="`schedule` must fall from its highest rate"):
        ComponentSchedule(0.5, lambda o: LambdaLR(o, lambda _: 1.0), steps=4)


def test_they_say_what_they_are() -> None:
    assert repr(CubicSchedule(0.5, steps=3)) == "CubicSchedule(0.5, steps=3, begin=0, initial=0.0, every=1)"
    assert repr(ConstantSchedule(0.5)) == "ConstantSchedule(0.5, begin=1)"
    assert "schedule=<function" in repr(ComponentSchedule(0.5, lambda o: CosineAnnealingLR(o, 4), steps=4))

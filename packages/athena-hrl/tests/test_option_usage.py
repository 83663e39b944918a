"""Counting how options are used: durations, switches, the two collapses, pitfall 19."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena_hrl import OptionUsage


def counted(rows: list[tuple[int, bool, bool]], n_options: int = 3) -> OptionUsage:
    """The use in one run, from option, whether one ended before, and whether an episode begins."""
    usage = OptionUsage(n_options)
    for option, ended, begins in rows:
        usage.add([option], ended=[ended], begins=[begins])
    return usage


def test_a_hand_worked_run():
    usage = counted(
        [
            (0, False, True),
            (0, False, False),
            (0, True, False),  # the same one again: over after 2, but no switch
            (1, True, False),  # over after 1, a switch
            (1, False, False),
            (1, False, False),
            (2, False, True),  # the episode ended it after 3; no switch either
        ]
    )
    assert usage.steps.tolist() == [3, 3, 1]
    assert [usage.durations(option).tolist() for option in range(3)] == [[1, 2], [3], []]
    assert usage.mean_durations.tolist() == [1.5, 3.0, 0.0]
    assert usage.switches == 1
    assert usage.median_duration == 2
    shares = np.array([3, 3, 1]) / 7
    assert usage.effective_options == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert usage.collapse is None
    assert usage.metrics().steps == 7


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans(), st.booleans()), max_size=60))
def test_it_equals_a_plain_count_of_each_row(steps):
    usage, option = OptionUsage(3, 2), 0
    durations, switches, elapsed, total = [], 0, 0, 0
    for drawn, ended, begins, live in steps:
        chosen = live and (ended or begins or elapsed == 0)
        if chosen and elapsed:
            durations.append((option, elapsed))
            switches += not begins and drawn != option
            elapsed = 0
        if live:
            option, elapsed, total = drawn if chosen else option, elapsed + 1, total + 1
        usage.add([option, option], ended=[chosen] * 2, begins=[begins] * 2, live=[live] * 2)
    assert usage.steps.sum() == 2 * total
    assert usage.switches == 2 * switches
    for number in range(3):
        wanted = sorted(length for acted, length in durations if acted == number)
        assert usage.durations(number).tolist() == sorted(2 * wanted)
    if durations:
        assert usage.median_duration == np.median([length for _, length in durations])


def test_pitfall_19_both_collapses_are_detected():
    assert counted([(0, index == 0, False) for index in range(50)]).collapse == "one option"
    seldom = [(1 if index == 7 else 0, index % 7 < 2, False) for index in range(200)]
    assert counted(seldom).collapse == "one option"
    assert counted([(index % 3, True, False) for index in range(50)]).collapse == "one step"
    assert counted([(index // 5 % 3, index % 5 == 0, False) for index in range(50)]).collapse is None
    assert OptionUsage(1).collapse is None  # nothing was counted, and one option cannot collapse to one
    assert counted([(0, index % 3 == 0, False) for index in range(50)], n_options=1).collapse is None


def test_long_executions_and_empty_counts():
    usage = counted([(0, index in (0, 1000), False) for index in range(1002)])
    assert usage.durations(0).tolist() == [1000]
    assert usage.median_duration == 1000
    usage.reset()
    assert (usage.steps.sum(), usage.switches, usage.median_duration, usage.effective_options) == (0, 0, 0, 0)
    assert usage.shares.tolist() == [0, 0, 0]
    usage.add([0], ended=[True])
    assert usage.durations(0).tolist() == [2]  # the execution under way was not forgotten


def test_a_restored_one_goes_on():
    rows = [(index % 3, index % 4 == 0, index % 10 == 0) for index in range(40)]
    whole, first, second = counted(rows), counted(rows[:17]), OptionUsage(3)
    second.load_state_dict(first.state_dict())
    for option, ended, begins in rows[17:]:
        second.add([option], ended=[ended], begins=[begins])
    assert second.metrics() == whole.metrics()
    assert second.durations(1).tolist() == whole.durations(1).tolist()


def test_misuse_raises():
    with pytest.raises(ValueError, match="`n_options` must be at least 1"):
        OptionUsage(0)
    with pytest.raises(ValueError, match=r"`option` must lie in \[0, 2\)"):
        OptionUsage(2).add([2], ended=[True])
    with pytest.raises(ValueError, match="`state` must be of 2 options"):
        OptionUsage(2).load_state_dict(OptionUsage(3).state_dict())

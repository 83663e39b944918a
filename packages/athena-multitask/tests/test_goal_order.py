"""The order of goals: each way of going on, resumed, and begun again."""

from __future__ import annotations

import numpy as np
import pytest

from athena_multitask import GoalOrder
from athena_multitask._goal_order import Goals

WAYS: list[Goals] = ["random", "cycle", "hold"]


def test_cycling_visits_every_goal_once_before_any_again() -> None:
    order = GoalOrder(50, how="cycle", entropy=[3])
    assert [order.next() for _ in range(100)] == [*range(50), *range(50)]


def test_drawing_misses_goals_which_is_why_evaluation_does_not_draw() -> None:
    order = GoalOrder(50, how="random", entropy=[3])
    assert 25 < len({order.next() for _ in range(50)}) < 40  # about 1 - 1/e of them


def test_a_held_goal_stays_until_another_is_sampled() -> None:
    order = GoalOrder(50, how="hold", entropy=[3])
    held = [order.next() for _ in range(5)]
    moved = [order.sample() for _ in range(5)]
    assert len(set(held)) == 1
    assert len(set(moved)) > 1
    assert order.next() == moved[-1]


@pytest.mark.parametrize("how", WAYS)
def test_it_goes_on_where_its_state_was_taken(how: Goals) -> None:
    order, other = GoalOrder(7, how=how, entropy=[3]), GoalOrder(7, how=how, entropy=[4])
    for _ in range(3):
        order.sample()
    state = order.state_dict()
    expected = [order.next() for _ in range(20)]
    other.load_state_dict(state)
    assert [other.next() for _ in range(20)] == expected


@pytest.mark.parametrize("how", WAYS)
def test_beginning_again_is_making_anew_and_leaves_the_global_generator(how: Goals) -> None:
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    order = GoalOrder(7, how=how, entropy=[3])
    first = [order.sample() for _ in range(20)]
    order.restart([3])
    assert [order.sample() for _ in range(20)] == first
    assert np.random.random() == expected


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="`n_goals` must be at least 1; got 0"):
        GoalOrder(0, how="cycle", entropy=[0])
    with pytest.raises(ValueError, match='`goals` must be "random", "cycle" or "hold"; got \'any\''):
        GoalOrder(3, how="any", entropy=[0])  # pyright: ignore[reportArgumentType]

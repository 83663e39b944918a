"""Goal strategies against their definitions, by counting; their laws are claimed in the conformance tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hindsight_record import task

from athena_core import AthenaError
from athena_hrl import (
    Drawn,
    EpisodeGoals,
    FinalGoals,
    FutureGoals,
    GoalStrategy,
    HindsightReplay,
    PrioritisedGoals,
    RandomGoals,
    as_goal_strategy,
)
from athena_hrl._goal_strategy_laws import every_step


def drawn(count: int, **changes: Any) -> Drawn:
    """So many times step 4 of an episode from 2 up to 7, of environment 1 of two."""
    whole = {
        name: np.full(count, value) for name, value in {"env": 1, "step": 4, "start": 2, "end": 7}.items()
    }
    return Drawn(**{**whole, "first": np.array([5, 0]), "last": np.array([9, 7]), **changes})


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (FutureGoals(), {(1, step): 1 / 3 for step in (4, 5, 6)}),
        (FinalGoals(), {(1, 6): 1.0}),
        (EpisodeGoals(), {(1, step): 1 / 5 for step in range(2, 7)}),
        (
            RandomGoals(),
            {**{(0, step): 1 / 11 for step in range(5, 9)}, **{(1, step): 1 / 11 for step in range(7)}},
        ),
    ],
)
def test_each_goal_is_as_likely_as_its_definition_says(strategy: GoalStrategy, expected: Any) -> None:
    env, step = strategy.choose(drawn(30_000), np.random.default_rng(0))
    pairs, counts = np.unique(np.stack([env, step], axis=1), axis=0, return_counts=True)
    found = dict(zip(map(tuple, pairs.tolist()), (counts / 30_000).tolist(), strict=True))
    assert found.keys() == expected.keys()
    for pair, share in expected.items():
        assert found[pair] == pytest.approx(share, abs=0.012)  # 4 standard errors


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_prioritised_is_as_likely_as_the_power_of_its_priority(alpha: float) -> None:
    priorities = np.array([9.0, 9.0, 9.0, 9.0, 1.0, 0.5, 2.5, 9.0])
    given = drawn(30_000, priority=lambda env, step: priorities[step] * (env == 1))
    env, step = PrioritisedGoals(alpha=alpha).choose(given, np.random.default_rng(0))
    expected = np.array([1.0, 0.5, 2.5]) ** alpha
    np.testing.assert_allclose(
        np.bincount(step, minlength=7)[4:] / 30_000, expected / expected.sum(), atol=0.012
    )
    assert (env == 1).all()
    assert step.max() == 6


def test_prioritised_without_errors_is_future() -> None:
    given = drawn(30_000, priority=lambda env, step: np.zeros(step.shape))
    step = PrioritisedGoals().choose(given, np.random.default_rng(0)).step
    np.testing.assert_allclose(np.bincount(step)[4:] / 30_000, [1 / 3] * 3, atol=0.012)


def test_prioritised_says_what_is_wrong() -> None:
    for alpha in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="`alpha` must be a finite number of at least 0"):
            PrioritisedGoals(alpha=alpha)
    with pytest.raises(ValueError, match=r"`drawn\.priority` must be given; got None"):
        PrioritisedGoals().choose(drawn(1), np.random.default_rng(0))


class Shifted(GoalStrategy):
    """Chooses steps that it may not."""

    def __init__(self, by: int, *, leaves_episode: bool = False) -> None:
        self.by, self.leaves_episode = by, leaves_episode

    def choose(self, drawn: Drawn, rng: np.random.Generator) -> Any:
        env, step = FinalGoals().choose(drawn, rng)
        return env, step + self.by


@pytest.mark.parametrize("leaves_episode", [False, True])
@pytest.mark.parametrize("by", [1, -40])
def test_a_strategy_that_leaves_what_is_stored_is_found_out(by: int, leaves_episode: bool) -> None:
    replay = HindsightReplay(task(), 9, strategy=Shifted(by, leaves_episode=leaves_episode))
    one = {"observation": np.zeros((2, 2)), "achieved_goal": [0, 0, 0], "desired_goal": [0, 0, 0]}
    for t in range(6):
        replay.add(one, 0, 0.0, one, terminated=False, truncated=t == 4)
    with pytest.raises(ValueError, match="the steps that a goal strategy chooses must"):
        replay.sample(20)


def test_a_strategy_goes_by_its_name_with_its_options() -> None:
    assert as_goal_strategy("prioritised", alpha=0.5) == PrioritisedGoals(alpha=0.5)
    mine = FinalGoals()
    assert as_goal_strategy(mine) is mine
    with pytest.raises(AthenaError, match=r"unknown goal-strategy `finale`. Did you mean `final`\?"):
        as_goal_strategy("finale")
    with pytest.raises(
        TypeError, match=r'`strategy` must be a name or a `GoalStrategy`; got 3. Take "future"'
    ):
        as_goal_strategy(3)  # pyright: ignore[reportArgumentType]


def test_the_head_of_what_was_drawn_is_its_first() -> None:
    whole = every_step(FinalGoals())
    head = whole.head(3)
    for name in ("env", "step", "start", "end"):
        np.testing.assert_array_equal(getattr(head, name), getattr(whole, name)[:3])
    assert head.priority is None
    assert head.first is whole.first

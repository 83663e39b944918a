"""The laws of goal strategies: what the conformance kit asks of each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from athena_core import Component
from athena_core.testing import Check
from athena_hrl._goal_strategy import Drawn, GoalSteps, GoalStrategy

StrategyFactory = Callable[..., GoalStrategy]

LENGTHS = {0: (5, 1, 7), 1: (2,), 2: (), 3: (1, 1, 9, 4)}  # of finished episodes, by environment
FIRST = {0: 3, 1: 0, 2: 11, 3: 40}  # the steps before were overwritten


def example_goal_strategy(target: StrategyFactory) -> GoalStrategy:
    """A strategy with its default options."""
    return target()


def every_step(strategy: GoalStrategy, repeats: int = 1) -> Drawn:
    """All finished steps of some environments, each so many times, as if they had been drawn."""
    rows = []
    for env, lengths in LENGTHS.items():
        start = FIRST[env]
        for length in lengths:
            rows += [(env, step, start, start + length) for step in range(start, start + length)]
            start += length
    env, step, start, end = np.repeat(np.array(rows, np.int64), repeats, axis=0).T
    first = np.array(list(FIRST.values()), np.int64)
    last = first + np.array([sum(lengths) for lengths in LENGTHS.values()], np.int64)
    return Drawn(env, step, start, end, first, last, _priority if strategy.needs_priority else None)


def _priority(env: NDArray[np.int64], step: NDArray[np.int64]) -> NDArray[np.float64]:
    return ((7 * env + step) % 5 + 1).astype(np.float64)


def _chosen(strategy: GoalStrategy, drawn: Drawn, seed: int = 0) -> GoalSteps:
    return strategy.choose(drawn, np.random.default_rng(seed))


def _chooses_stored_steps(target: StrategyFactory) -> None:
    strategy = target()
    drawn = every_step(strategy, 20)
    env, step = _chosen(strategy, drawn)
    for name, part in (("env", env), ("step", step)):
        assert part.shape == drawn.step.shape, f"`{name}` has the shape {part.shape}"
        assert np.issubdtype(part.dtype, np.integer), f"`{name}` is of {part.dtype}"
    assert ((env >= 0) & (env < len(LENGTHS))).all(), "environments that there are none of"
    outside = (step < drawn.first[env]) | (step >= drawn.last[env])
    assert not outside.any(), "steps that are not stored, or of episodes under way"


def _stays_in_its_episode(target: StrategyFactory) -> None:
    strategy = target()
    drawn = every_step(strategy, 20)
    env, step = _chosen(strategy, drawn)
    stays = (env == drawn.env) & (step >= drawn.start) & (step < drawn.end)
    assert strategy.leaves_episode or stays.all(), "a goal of another episode, yet not `leaves_episode`"
    assert not (strategy.leaves_episode and stays.all()), "`leaves_episode`, yet each goal is of its episode"


def _depends_on_the_generator_alone(target: StrategyFactory) -> None:
    strategy = target()
    drawn = every_step(strategy)
    before = random.getstate(), _global_keys()
    first = _chosen(strategy, drawn)
    _chosen(strategy, drawn, seed=1)  # leaves nothing behind
    again = _chosen(strategy, drawn)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert random.getstate() == before[0], "Python's global generator moved"
    assert np.array_equal(_global_keys(), before[1]), "NumPy's global generator moved"


def _global_keys() -> Any:
    return np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002  the global generator is meant


def _leaves_what_is_given(target: StrategyFactory) -> None:
    strategy = target()
    drawn, untouched = every_step(strategy), every_step(strategy)
    _chosen(strategy, drawn)
    for name in ("env", "step", "start", "end", "first", "last"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(untouched, name), err_msg=name)


def _takes_few(target: StrategyFactory) -> None:
    strategy = target()
    drawn = every_step(strategy)
    none = drawn.head(0, drawn.priority)
    assert [part.shape for part in _chosen(strategy, none)] == [(0,), (0,)], "nothing drawn, something chosen"
    one = np.zeros(1, np.int64)  # one episode of one step is all there is
    only = Drawn(one, one, one, one + 1, one, one + 1, drawn.priority)
    assert [part.tolist() for part in _chosen(strategy, only)] == [[0], [0]]


def goal_strategy_checks(component: Component, target: StrategyFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of a strategy that is made without arguments."""
    laws = {
        "it chooses finished steps that are stored": _chooses_stored_steps,
        "it stays in the episode, or says that it does not": _stays_in_its_episode,
        "it depends on the generator alone": _depends_on_the_generator_alone,
        "it changes nothing that is given": _leaves_what_is_given,
        "it takes none and one": _takes_few,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))

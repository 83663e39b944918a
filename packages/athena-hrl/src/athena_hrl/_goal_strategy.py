"""What chooses the goals that hindsight puts in the place of the desired ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from athena_core import create

Steps = NDArray[np.int64]


class GoalSteps(NamedTuple):
    """Steps whose *next* achieved goals are to be the desired ones: of which environment, and which.

    >>> GoalSteps(env=np.array([0]), step=np.array([7])).step
    array([7])
    """

    env: Steps
    step: Steps


class Drawn(NamedTuple):
    """Steps that were drawn for replay, where they lie in their episodes, and what else is stored.

    Steps of an environment are counted through all of its episodes: its episode goes from ``start`` up to but
    without ``end``, and what is stored of finished episodes from ``first`` up to but without ``last``.

    Args:
        env, step, start, end: of each drawn step, ``(B,)``.
        first, last: of each environment, ``(N,)``.
        priority: the priorities of stored steps, from arrays ``(env, step)`` of any shape; None where the
            strategy does not ask for them.

    >>> one = np.array([1])
    >>> Drawn(env=0 * one, step=3 * one, start=2 * one, end=5 * one, first=0 * one, last=9 * one).step
    array([3])
    """

    env: Steps
    step: Steps
    start: Steps
    end: Steps
    first: Steps
    last: Steps
    priority: Callable[[Steps, Steps], NDArray[np.float64]] | None = None

    def head(
        self, count: int, priority: Callable[[Steps, Steps], NDArray[np.float64]] | None = None
    ) -> Drawn:
        """The first ``count`` of them, with priorities."""
        env, step, start, end, first, last, _ = self
        return Drawn(env[:count], step[:count], start[:count], end[:count], first, last, priority)


class GoalStrategy(ABC):
    r"""Which step's *next* achieved goal replaces the desired goal of a replayed step.

    A strategy has no state: what it answers depends on what was drawn and on the generator alone. In an
    episode of steps :math:`0 \ldots T-1`, step :math:`t` goes from :math:`s_t` to :math:`s_{t+1}`; choosing
    step :math:`j` makes :math:`m(s_{j+1})` the goal, so that :math:`j \ge t` is a goal of the future and
    :math:`j = T - 1` the last state.

    Attributes:
        leaves_episode: goals may come from other episodes, and other environments.
        needs_priority: `Drawn.priority` is asked for, which is kept for no other strategy.

    Source: Andrychowicz et al. 2017, arXiv:1707.01495, section 3.2 and algorithm 1 (the sampling strategy
    :math:`\mathbb{S}`). Departs from it: no.

    >>> class Next(GoalStrategy):
    ...     def choose(self, drawn, rng):
    ...         return GoalSteps(drawn.env, drawn.step)
    >>> t = np.array([4])
    >>> drawn = Drawn(env=0 * t, step=t, start=0 * t, end=2 * t, first=0 * t, last=2 * t)
    >>> Next().choose(drawn, np.random.default_rng(0)).step
    array([4])
    """

    leaves_episode: bool = False
    needs_priority: bool = False

    @abstractmethod
    def choose(self, drawn: Drawn, rng: np.random.Generator) -> GoalSteps:
        """A step for each that was drawn, ``(B,)``; nothing given may be changed."""


def as_goal_strategy(choice: str | GoalStrategy, **options: Any) -> GoalStrategy:
    """The strategy of this name, or the one given.

    Raises AthenaError for an unknown name, with the nearest; TypeError for what is no strategy.

    >>> as_goal_strategy("final")
    FinalGoals()
    """
    if isinstance(choice, str):
        return create("goal-strategy", choice, **options)
    if not isinstance(choice, GoalStrategy):
        raise TypeError(f'`strategy` must be a name or a `GoalStrategy`; got {choice!r}. Take "future".')
    return choice


def uniform_between(low: Steps, high: Steps, rng: np.random.Generator) -> Steps:
    """A whole number in ``[low, high)`` for each pair, ``(B,)``.

    >>> uniform_between(np.array([2, 5]), np.array([3, 6]), np.random.default_rng(0))
    array([2, 5])
    """
    # A double below 1 times a count below 2^53 rounds to below the count; `rng.integers` of arrays is slow.
    return low + (rng.random(len(low)) * (high - low)).astype(np.int64)

"""HAC's three kinds of transition, as functions of what a level did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float32]
Achieved = Callable[[Array, Array], bool]  # whether a goal is achieved at a place


class LevelTransition(NamedTuple):
    """One action of a level. The discount is 0 where its goal was achieved, or its future has no value.

    >>> LevelTransition(np.zeros(2), np.zeros(1), 0.0, np.zeros(2), np.zeros(1), 0.0).discount
    0.0
    """

    state: Array
    action: Array
    reward: float
    next_state: Array
    goal: Array
    discount: float


class LevelStep(NamedTuple):
    """What happened in one action of a level: from where to where, and the place that was achieved.

    >>> LevelStep(np.zeros(2), np.zeros(1), np.ones(2), np.ones(1), terminated=False).terminated
    False
    """

    state: Array
    action: Array  # the primitive action, or the subgoal
    next_state: Array
    achieved: Array
    terminated: bool  # by the environment, which has no future then


def hindsight_action(step: LevelStep, goal: Array, *, gamma: float, achieved: Achieved) -> LevelTransition:
    r"""A transition as if the level below had been perfect: the action is the place that was achieved.

    .. math:: [s, \tilde a = \text{achieved}, r, s', g, \gamma_g], \qquad
        (r, \gamma_g) = (0, 0) \text{ if } g \text{ is achieved at } s', \text{ else } (-1, \gamma)

    At the lowest level, whose actions are primitive, `LevelStep.action` stays (`level_transition`).

    Args:
        step: of the level.
        goal: that the level was given.
        gamma: discount of one action.
        achieved: whether a goal is achieved at a place.

    Source: Levy et al. 2019, arXiv:1712.00948, "hindsight action transitions". Departs from it:
    the discount is 0 too where the environment terminated.

    >>> step = LevelStep(np.zeros(1), np.array([5.0]), np.array([2.0]), np.array([2.0]), terminated=False)
    >>> near = lambda place, goal: bool(np.abs(place - goal).max() < 0.5)
    >>> made = hindsight_action(step, np.array([9.0]), gamma=0.98, achieved=near)
    >>> made.action, made.reward, made.discount
    (array([2.]), -1.0, 0.98)
    """
    return level_transition(step._replace(action=step.achieved), goal, gamma=gamma, achieved=achieved)


def level_transition(step: LevelStep, goal: Array, *, gamma: float, achieved: Achieved) -> LevelTransition:
    """A transition with the action that was taken, its reward and discount by the goal.

    Args: as those of `hindsight_action`.

    Source: Levy et al. 2019, arXiv:1712.00948. Departs from it: as `hindsight_action`.

    >>> step = LevelStep(np.zeros(1), np.array([1.0]), np.array([2.0]), np.array([2.0]), terminated=False)
    >>> made = level_transition(step, np.array([2.0]), gamma=0.98, achieved=lambda place, goal: True)
    >>> made.action, made.reward, made.discount
    (array([1.]), 0.0, 0.0)
    """
    reached = achieved(step.achieved, goal)
    discount = 0.0 if reached or step.terminated else gamma
    return LevelTransition(step.state, step.action, float(reached) - 1, step.next_state, goal, discount)


def hindsight_goals(
    steps: Sequence[LevelStep],
    actions: Sequence[Array],
    *,
    gamma: float,
    achieved: Achieved,
    count: int,
    random: np.random.Generator,
) -> list[LevelTransition]:
    r"""Transitions as if a place achieved later on had been the goal all along, hindsight's "future".

    For each step ``count`` goals are drawn from the places that it and the later ones achieved.

    Args:
        steps: of one attempt of a level at its goal, in order.
        actions: of each, those of its hindsight action transition.
        gamma, achieved: as those of `hindsight_action`.
        count: goals a step.
        random: the generator.

    Source: Levy et al. 2019, arXiv:1712.00948, "hindsight goal transitions"; Andrychowicz et al.
    2017, arXiv:1707.01495, section 4.5. Departs from it: goals are drawn for each step on its own.

    >>> step = LevelStep(np.zeros(1), np.ones(1), np.ones(1), np.ones(1), terminated=False)
    >>> options = {"gamma": 0.98, "achieved": lambda place, goal: bool((place == goal).all())}
    >>> made = hindsight_goals([step], [step.action], count=1, random=np.random.default_rng(0), **options)
    >>> made[0].goal, made[0].reward, made[0].discount
    (array([1.]), 0.0, 0.0)
    """
    made = []
    for index, (step, action) in enumerate(zip(steps, actions, strict=True)):
        for later in random.integers(index, len(steps), count):
            goal = steps[later].achieved
            relabelled = step._replace(action=action)
            made.append(level_transition(relabelled, goal, gamma=gamma, achieved=achieved))
    return made


def missed_subgoal(step: LevelStep, goal: Array, *, horizon: int) -> LevelTransition:
    r"""The penalty for a subgoal that was tested and missed: :math:`[s, a, -H, s', g, 0]`.

    Its discount is 0, so that the penalty says nothing of how the state goes on.

    Args:
        step: with the subgoal that was set as its action.
        goal: that the level was given.
        horizon: :math:`H`, attempts of the level below.

    Source: Levy et al. 2019, arXiv:1712.00948, "subgoal testing transitions". Departs from it:
    no.

    >>> step = LevelStep(np.zeros(1), np.array([9.0]), np.ones(1), np.ones(1), terminated=False)
    >>> made = missed_subgoal(step, np.array([3.0]), horizon=10)
    >>> made.action, made.reward, made.discount
    (array([9.]), -10.0, 0.0)
    """
    return LevelTransition(step.state, step.action, -float(horizon), step.next_state, goal, 0.0)


def within(radius: ArrayLike) -> Achieved:
    """A goal is achieved where no dimension is farther from it than its radius.

    >>> near = within([0.5, 0.1])
    >>> near(np.array([0.4, 0.0]), np.zeros(2)), near(np.array([0.4, 0.2]), np.zeros(2))
    (True, False)
    """
    limit: Any = np.asarray(radius)
    return lambda place, goal: bool((np.abs(place - goal) <= limit).all())

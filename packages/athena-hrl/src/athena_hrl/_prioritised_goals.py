"""Goals of the future that promise to teach the most."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from athena_hrl._goal_strategy import Drawn, GoalSteps, GoalStrategy


@dataclass(frozen=True)
class PrioritisedGoals(GoalStrategy):
    r"""A state that came after :math:`s_t` in its episode, by its priority:

    .. math:: P(j \mid t) = p_j^\alpha \Big/ \sum_{i=t}^{T-1} p_i^\alpha, \qquad j = t \ldots T - 1.

    :math:`p_j` is the priority of step :math:`j`'s next achieved goal, which whoever learns sets by
    ``update_priorities``: the size of the temporal-difference error that the goal gave when it was replayed
    last. A new step has the highest priority set so far, 1 at first, so that each goal is tried. Where nobody
    sets any, as in Stable-Baselines3, all are equal, and the strategy is `FutureGoals`.

    Args:
        alpha: :math:`\alpha`; 0 makes all futures as likely.

    Raises ValueError for an exponent that is below 0 or not finite.

    Source: Luu and Yoo 2021, "Hindsight Goal Ranking on Replay Buffer for Sparse Reward Environment", IEEE
    Access 9 (goals of the future by their temporal-difference errors); the exponent and the priority of what
    is new as Schaul et al. 2016, arXiv:1511.05952, section 3.3. Departs from them: a goal has one priority,
    not one for each step that it was tried with; episodes and steps are drawn uniformly; no weights correct
    the bias.

    >>> t = np.array([2])
    >>> drawn = Drawn(
    ...     env=0 * t,
    ...     step=t,
    ...     start=0 * t,
    ...     end=t + 3,
    ...     first=0 * t,
    ...     last=t + 3,
    ...     priority=lambda env, step: np.where(step == 3, 1.0, 0.0),
    ... )
    >>> PrioritisedGoals().choose(drawn, np.random.default_rng(0)).step
    array([3])
    """

    alpha: float = 0.6
    needs_priority = True

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"`alpha` must be a finite number of at least 0; got {self.alpha}.")

    def choose(self, drawn: Drawn, rng: np.random.Generator) -> GoalSteps:
        if drawn.priority is None:
            raise ValueError(
                "`drawn.priority` must be given; got None. Make a `HindsightReplay` with this strategy."
            )
        if not len(drawn.step):
            return GoalSteps(drawn.env, drawn.step)
        ahead = np.arange((drawn.end - drawn.step).max())
        step = drawn.step[:, None] + ahead  # (B, longest future)
        inside = step < drawn.end[:, None]
        step = np.where(inside, step, drawn.step[:, None])
        priority = drawn.priority(np.broadcast_to(drawn.env[:, None], step.shape), step)
        weight = np.where(inside, priority**self.alpha, 0.0)
        unset = ~(weight.sum(axis=1) > 0)  # all errors 0: as likely
        weight[unset] = inside[unset]
        upto = weight.cumsum(axis=1)
        mark = rng.random(len(upto)) * upto[:, -1]
        return GoalSteps(drawn.env, drawn.step + (upto <= mark[:, None]).sum(axis=1))

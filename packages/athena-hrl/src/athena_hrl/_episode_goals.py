"""Goals that were achieved at any time in the same episode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from athena_hrl._goal_strategy import Drawn, GoalSteps, GoalStrategy, uniform_between


@dataclass(frozen=True)
class EpisodeGoals(GoalStrategy):
    r"""A state of the same episode, each as likely: of :math:`s_1 \ldots s_T`.

    Source: Andrychowicz et al. 2017, arXiv:1707.01495, section 4.5, "episode". Departs from it: the first
    state, to which no step led, is no goal.

    >>> t = np.array([8])
    >>> drawn = Drawn(env=0 * t, step=t, start=t - 1, end=t + 2, first=0 * t, last=t + 2)
    >>> int(EpisodeGoals().choose(drawn, np.random.default_rng(0)).step[0]) in (7, 8, 9)
    True
    """

    def choose(self, drawn: Drawn, rng: np.random.Generator) -> GoalSteps:
        return GoalSteps(drawn.env, uniform_between(drawn.start, drawn.end, rng))

"""Goals that were achieved later in the same episode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from athena_hrl._goal_strategy import Drawn, GoalSteps, GoalStrategy, uniform_between


@dataclass(frozen=True)
class FutureGoals(GoalStrategy):
    r"""A state that came after :math:`s_t` in its episode, each as likely: of :math:`s_{t+1} \ldots s_T`.

    Source: Andrychowicz et al. 2017, arXiv:1707.01495, section 4.5, "future". Departs from it: no.

    >>> t = np.array([8])
    >>> drawn = Drawn(env=0 * t, step=t, start=0 * t, end=t + 2, first=0 * t, last=t + 2)
    >>> int(FutureGoals().choose(drawn, np.random.default_rng(0)).step[0]) in (8, 9)
    True
    """

    def choose(self, drawn: Drawn, rng: np.random.Generator) -> GoalSteps:
        return GoalSteps(drawn.env, uniform_between(drawn.step, drawn.end, rng))

"""Goals that were achieved at the end of the same episode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from athena_hrl._goal_strategy import Drawn, GoalSteps, GoalStrategy


@dataclass(frozen=True)
class FinalGoals(GoalStrategy):
    r"""The last state of the episode, :math:`s_T`, to which its last step led.

    Source: Andrychowicz et al. 2017, arXiv:1707.01495, section 4.5, "final". Departs from it: no.

    >>> t = np.array([8])
    >>> drawn = Drawn(env=0 * t, step=t, start=0 * t, end=t + 2, first=0 * t, last=t + 2)
    >>> FinalGoals().choose(drawn, np.random.default_rng(0)).step
    array([9])
    """

    def choose(self, drawn: Drawn, rng: np.random.Generator) -> GoalSteps:  # noqa: ARG002  the interface's
        return GoalSteps(drawn.env, drawn.end - 1)

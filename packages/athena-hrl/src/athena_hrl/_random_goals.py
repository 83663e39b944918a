"""Goals that were achieved at any time, in any episode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from athena_hrl._goal_strategy import Drawn, GoalSteps, GoalStrategy


@dataclass(frozen=True)
class RandomGoals(GoalStrategy):
    r"""A state of any finished episode that is stored, of any environment, each as likely.

    Source: Andrychowicz et al. 2017, arXiv:1707.01495, section 4.5, "random". Departs from it: of what the
    buffer still holds, not of all that was ever seen.

    >>> t = np.array([8])
    >>> drawn = Drawn(env=0 * t, step=t, start=t, end=t + 2, first=0 * t, last=t + 2)
    >>> 0 <= int(RandomGoals().choose(drawn, np.random.default_rng(0)).step[0]) < 10
    True
    """

    leaves_episode = True

    def choose(self, drawn: Drawn, rng: np.random.Generator) -> GoalSteps:
        upto = np.cumsum(drawn.last - drawn.first)
        place = rng.integers(upto[-1], size=len(drawn.step)) if len(drawn.step) else drawn.step
        env = np.searchsorted(upto, place, side="right")
        return GoalSteps(env, drawn.last[env] - upto[env] + place)

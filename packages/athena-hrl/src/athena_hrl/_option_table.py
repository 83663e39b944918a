"""A table of the values of options, with what an agent needs to learn in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from athena_hrl._epsilon_greedy import epsilon_greedy_index
from athena_hrl._schedule import Schedule, check_schedules, scheduled
from athena_hrl._smdp import no_option


class OptionTable:
    r"""Values over states and options, chosen from by :math:`\epsilon`-greedy; for agents to derive from.

    Args:
        shape: ``(states, options)``.
        step_size: a number, or a function of how often an entry has been learned from.
        epsilon: a number, or a function of the steps taken.
        initial: of the table.
        seed: of choices.

    Raises ValueError for numbers outside [0, 1], and where no option can start.

    >>> OptionTable((3, 2), initial=1.0).q.tolist()
    [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        step_size: Schedule = 0.1,
        epsilon: Schedule = 0.1,
        initial: float = 0.0,
        seed: int = 0,
    ) -> None:
        check_schedules(step_size=step_size, epsilon=epsilon)
        self.step_size, self.epsilon, self.seed = step_size, epsilon, seed
        self.q = np.full(shape, float(initial))
        self.visits = np.zeros(shape, dtype=np.int64)
        self.steps = 0
        self.random = np.random.default_rng(seed)
        self._state: int | None = None  # where the episode under way is; None if there is none

    def choose(self, state: int, available: NDArray[np.bool_]) -> int:
        """The best of the options that can start or, with probability ``epsilon``, any of them."""
        able = np.flatnonzero(available)
        if not len(able):
            raise no_option(state)
        epsilon = scheduled(self.epsilon, self.steps, name="epsilon")
        values = self.q[state, able].tolist()
        return int(able[epsilon_greedy_index(values, epsilon=epsilon, random=self.random)])

    def state_dict(self) -> dict[str, Any]:
        """Tables, steps and the generator's place; not the episode under way."""
        return {
            "q": self.q.copy(),
            "visits": self.visits.copy(),
            "steps": self.steps,
            "random": self.random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a new episode. Raises ValueError for tables of another size."""
        q, visits = (np.asarray(state[name]).copy() for name in ("q", "visits"))
        if q.shape != self.q.shape or visits.shape != self.q.shape:
            raise ValueError(
                f"`state` must hold tables of the shape {self.q.shape}; got {q.shape}. Take the environment "
                "and the options that they were learned with."
            )
        self.q, self.visits, self.steps = q, visits, int(state["steps"])
        self.random.bit_generator.state = state["random"]
        self._state = None

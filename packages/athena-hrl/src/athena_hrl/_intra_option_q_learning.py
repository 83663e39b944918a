"""Learning about all options from each step of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from athena_hrl._option import Option
from athena_hrl._option_table import OptionTable
from athena_hrl._options import Options
from athena_hrl._schedule import Schedule, scheduled
from athena_hrl._smdp import checked_gamma, finite_reward, no_option, single_steps, warn_endless

Array = NDArray[np.float64]


def value_on_arrival(next_q: ArrayLike, termination: ArrayLike, available: ArrayLike) -> Array:
    r"""The value of arriving in :math:`s'` with each option under way,

    .. math:: U(s', o) = (1 - \beta_o(s')) Q(s', o) + \beta_o(s') \max_{o' \in O(s')} Q(s', o').

    Args:
        next_q: :math:`Q(s', \cdot)`.
        termination: :math:`\beta(s')`.
        available: :math:`O(s')`, the options that can start in :math:`s'`, as bools.

    Shape: all ``(..., O)``.
    Source: Sutton, Precup, Singh 1999, "Between MDPs and semi-MDPs", section 6. Departs from it: no.

    >>> value_on_arrival([4.0, 8.0], [0.5, 0.0], [True, True])
    array([6., 8.])
    """
    next_q, beta = np.asarray(next_q, dtype=np.float64), np.asarray(termination)
    best = np.where(available, next_q, -np.inf).max(-1, keepdims=True)
    # Where none can start and none ends, the value is that of going on, not NaN.
    return (1 - beta) * next_q + beta * np.where(beta > 0, best, 0.0)


class IntraOptionQLearning(OptionTable):
    r"""Q-learning over options from each step: of every option that might have taken it.

    .. math::
        Q(s, o) \mathrel{+}= \alpha \bigl(r + \gamma (1 - d) U(s', o) - Q(s, o)\bigr)
        \quad \text{for each } o \text{ with } \pi_o(s) = a

    with :math:`U` of `value_on_arrival` and :math:`d` where the episode terminated. So options are learned of
    that are never carried out. An option whose policy draws is weighed by
    :math:`\pi_o(a \mid s) / \pi_b(a \mid s)`, with :math:`b` the option under way; the step size times the
    weight is at most 1.

    Actions are those of options chosen by :math:`\epsilon`-greedy among those that can start, and carried out
    until they end.

    Args:
        env: over Discrete observations and actions.
        options: of `Option`, or `Options`.
        gamma: :math:`\gamma`.
        step_size: :math:`\alpha`, a number or a function of how often the pair has been learned from, from 1.
        epsilon: the share of choices that are random, a number or a function of the steps taken.
        initial: of the table.
        seed: of all draws, and of the first reset.

    Attributes:
        q: ``(states, options)``, the value of carrying out an option, also where it cannot start.
        visits: how often each entry was learned from.
        steps: so far.

    Raises ValueError for spaces that are not Discrete from 0, options of another environment, a state in
    which no option can start, and numbers outside [0, 1].
    Warns (RuntimeWarning), once for each option, of one that reached its ``max_duration``.
    Source: Sutton, Precup, Singh 1999, section 6, whose options do not draw; first Sutton and Precup 1998,
    "Intra-option learning about temporally abstract actions". Departs from it: options that draw.

    >>> from athena_hrl import primitives
    >>> lake = gym.make("FrozenLake-v1", is_slippery=False)
    >>> down = Option(policy=np.full(16, 1), termination=np.arange(16) >= 8, name="down")
    >>> agent = IntraOptionQLearning(lake, [down, *primitives(lake)], gamma=0.9, step_size=0.5, epsilon=0.5)
    >>> round(float(agent.learn(3000).q[0, 0]), 3)
    0.59
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        options: Iterable[Option] | Options,
        *,
        gamma: float = 0.99,
        step_size: Schedule = 0.1,
        epsilon: Schedule = 0.1,
        initial: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.env, self.gamma = single_steps(env), checked_gamma(gamma)
        self.options = Options(options, env)
        self.tables = self.options.tables()
        states, count = self.tables.initiation.shape
        super().__init__((states, count), step_size=step_size, epsilon=epsilon, initial=initial, seed=seed)
        self._option: int | None = None  # under way; None if one is to be chosen
        self._duration = 0
        self._begun = False
        self._warned: set[int] = set()

    def learn(self, steps: int) -> Self:
        """Take so many steps of the environment. An option under way goes on in the next call."""
        for _ in range(steps):
            self._learn_once()
        return self

    def act(self, state: int) -> int:
        """An option: the best that can start or, with probability ``epsilon``, any of them."""
        return self.choose(state, self.tables.initiation[state])

    def update(
        self, state: int, option: int, action: int, reward: float, next_state: int, *, terminated: bool
    ) -> None:
        """Learn from a step that ``option`` took, of every option consistent with its action."""
        chances = self.tables.policy[state, :, action]
        rows = np.flatnonzero(chances)
        target = np.full(len(rows), finite_reward(reward, state))
        if not terminated:
            arrival = value_on_arrival(
                self.q[next_state], self.tables.termination[next_state], self.tables.initiation[next_state]
            )
            if not np.isfinite(arrival[rows]).all():
                raise no_option(next_state)
            target += self.gamma * arrival[rows]
        self.visits[state, rows] += 1
        weight = chances[rows] / chances[option]
        self.q[state, rows] += np.minimum(self._step_sizes(state, rows) * weight, 1) * (
            target - self.q[state, rows]
        )

    def _step_sizes(self, state: int, rows: NDArray[np.int64]) -> float | Array:
        if not callable(self.step_size):
            return self.step_size
        counts = self.visits[state, rows]
        return np.array([scheduled(self.step_size, int(count), name="step_size") for count in counts])

    def _learn_once(self) -> None:
        if self._state is None:
            observation, _ = self.env.reset(seed=None if self._begun else self.seed)
            self._begun, self._state, self._option = True, int(observation), None
        if self._option is None:
            self._option, self._duration = self.act(self._state), 0
        state, option = self._state, self._option
        self._state = None  # stays None if something raises: a new episode then
        action = self._drawn(self.tables.policy[state, option])
        observation, reward, terminated, truncated, _ = self.env.step(action)
        after = int(observation)
        self.update(state, option, action, float(reward), after, terminated=terminated)
        self.steps += 1
        self._duration += 1
        self._state = None if terminated or truncated else after
        beta = self.tables.termination[after, option]
        if beta == 1 or (beta > 0 and self.random.random() < beta):
            self._option = None
        elif self._state is not None and self._duration >= self.options.max_duration[option]:
            self._option = None
            if option not in self._warned:
                self._warned.add(option)
                warn_endless(self.options[option], option, after)

    def _drawn(self, chances: Array) -> int:
        action = int(chances.argmax())
        if chances[action] < 1:
            action = int(self.random.choice(len(chances), p=chances))
        return action

"""SARSA with a table and a softmax policy: the value-based baseline without options."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from athena_hrl._numbers import in_range, positive
from athena_hrl._option_critic_gradients import Array, Integers, sample_rows, softmax
from athena_hrl._tabular_runs import TabularRuns, TabularStep


class Sarsa(TabularRuns):
    r"""SARSA(0), many runs side by side, which acts by :math:`\pi(a \mid s) \propto e^{Q(s, a) / T}`.

    .. math:: Q(s, a) \mathrel{+}= \alpha \bigl(r + \gamma\,Q(s', a') - Q(s, a)\bigr)

    with the action :math:`a'` that is taken next, and no :math:`Q(s', a')` after a termination. After a
    truncation :math:`a'` is the action that would have come next.

    Args:
        env: a vector environment with Discrete observations and actions, each row a run; or one environment.
        gamma: :math:`\gamma`.
        lr: :math:`\alpha`.
        temperature: T.
        seed: of the first run.

    Attributes:
        q: ``(R, S, A)``.

    Raises ValueError for numbers outside their range, or other spaces.

    Source: Rummery and Niranjan 1994, "On-line Q-learning using connectionist systems", section 2.2.
    Departs from it: no trace.

    >>> import gymnasium as gym
    >>> Sarsa(gym.make_vec("FrozenLake-v1", 3)).learn(100).q.shape
    (3, 16, 4)
    """

    tables: ClassVar = ("q", "action")

    def __init__(
        self, env: Any, *, gamma: float = 0.99, lr: float = 0.5, temperature: float = 0.01, seed: int = 0
    ) -> None:
        in_range(0, 1, lr=lr)
        positive(temperature=temperature)
        super().__init__(env, gamma=gamma, seed=seed)
        self.lr, self.temperature = lr, temperature
        self.q = np.zeros((self.runs, self.n_states, self.n_actions))
        self.action = np.zeros(self.runs, dtype=np.int64)

    @property
    def pi(self) -> Array:
        """The policy ``(R, S, A)``."""
        return softmax(self.q / self.temperature)

    def begin(self, rows: Integers, uniform: Array) -> None:
        probabilities = softmax(self.q[rows, self.state[rows]] / self.temperature)
        self.action[rows] = sample_rows(probabilities, uniform[1, rows])

    def act(self, uniform: Array) -> Integers:  # noqa: ARG002  it was drawn upon arrival
        return self.action

    def update(self, step: TabularStep, uniform: Array) -> None:
        rows = self.rows
        values = self.q[rows, step.arrival]
        following = sample_rows(softmax(values / self.temperature), uniform[0])
        target = step.reward + self.gamma * ~step.terminated * values[rows, following]
        error = target - self.q[rows, step.state, step.action]
        self.q[rows, step.state, step.action] += self.lr * step.live * error
        self.action = following

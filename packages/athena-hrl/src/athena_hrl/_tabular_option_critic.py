"""The option-critic with tables: options' policies and terminations learned by their gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from athena_hrl._numbers import LARGEST, in_range, positive
from athena_hrl._option_critic_gradients import (
    Array,
    Integers,
    arrival_value,
    entropy_gradient,
    epsilon_soft,
    epsilon_soft_value,
    log_policy_gradient,
    sample_rows,
    sigmoid,
    softmax,
    termination_gradient,
)
from athena_hrl._option_usage import OptionUsage
from athena_hrl._tabular_runs import TabularRuns, TabularStep


class TabularOptionCritic(TabularRuns):
    r"""Option-critic with tables, many runs side by side.

    Options start anywhere. Option :math:`o` acts by :math:`\pi(a \mid s, o) \propto e^{\theta_{soa} / T}` and
    ends on arrival with :math:`\beta(s', o) = \sigma(\nu_{s'o})`; then the next is chosen
    :math:`\epsilon`-greedily. With :math:`Q(s, o) = \sum_a \pi(a \mid s, o)\, Q_U(s, o, a)` and :math:`V` the
    :math:`\epsilon`-soft mixture of it, each step makes

    .. math::
        Q_U(s, o, a) &\mathrel{+}= \alpha_Q \bigl(r - c\,[o \text{ ended}]
            + \gamma\,((1 - \beta)\,Q(s', o) + \beta\,V(s')) - Q_U(s, o, a)\bigr)

        \theta_{so} &\mathrel{+}= \alpha_\pi \bigl((Q_U(s, o, a) - Q(s, o))\,\nabla \log \pi(a \mid s, o)
            + h\,\nabla H(\pi(\cdot \mid s, o))\bigr)

        \nu_{s'o} &\mathrel{-}= \alpha_\beta\, \beta (1 - \beta)\,\bigl(Q(s', o) - V(s') + \xi\bigr)

    where :math:`\nabla` is by the logits :math:`\theta / T`. A termination leaves nothing after the reward.
    An episode's end is no switch: it costs nothing, and teaches no termination.

    Args:
        env: a vector environment with Discrete observations and actions, each row a run; or one environment.
        n_options: O.
        gamma: :math:`\gamma`.
        epsilon: share of options chosen at random.
        critic_lr, policy_lr, termination_lr: :math:`\alpha_Q, \alpha_\pi, \alpha_\beta`.
        temperature: T.
        baseline: whether :math:`Q(s, o)` is taken off; without it the policy learns from :math:`Q_U` itself.
        deliberation_cost: :math:`c`, taken off the reward of a step upon whose arrival the option ended.
        margin: :math:`\xi`, the same cost as a margin in the termination's gradient.
        entropy: :math:`h`.
        seed: of the first run.

    Attributes:
        q_u: :math:`Q_U` ``(R, S, O, A)``.
        theta: ``(R, S, O, A)``.
        nu: ``(R, S, O)``.
        option: which acts, ``(R,)``.
        usage: how options were used, in all runs together.

    Raises ValueError for numbers outside their range, or other spaces.

    Source: Bacon, Harb, Precup 2017, arXiv:1609.05140, algorithm 1 and theorems 1 and 2; deliberation cost
    Harb et al. 2018, arXiv:1709.04571. Departs from them: V is that of the epsilon-greedy choice, where the
    algorithm takes the best option's; the step of theta lacks the factor 1/T of the gradient by theta.

    >>> import gymnasium as gym
    >>> learner = TabularOptionCritic(gym.make_vec("FrozenLake-v1", 3), n_options=2).learn(100)
    >>> learner.q.shape, learner.pi.shape, learner.beta.shape
    ((3, 16, 2), (3, 16, 2, 4), (3, 16, 2))
    """

    tables: ClassVar = ("q_u", "theta", "nu", "option", "ended", "begins")

    def __init__(
        self,
        env: Any,
        *,
        n_options: int = 4,
        gamma: float = 0.99,
        epsilon: float = 0.01,
        critic_lr: float = 0.5,
        policy_lr: float = 0.25,
        termination_lr: float = 0.25,
        temperature: float = 0.01,
        baseline: bool = True,
        deliberation_cost: float = 0.0,
        margin: float = 0.0,
        entropy: float = 0.0,
        seed: int = 0,
    ) -> None:
        in_range(1, LARGEST, n_options=n_options)
        in_range(0, 1, epsilon=epsilon, critic_lr=critic_lr)
        in_range(0, LARGEST, policy_lr=policy_lr, termination_lr=termination_lr)
        in_range(0, LARGEST, deliberation_cost=deliberation_cost, margin=margin, entropy=entropy)
        positive(temperature=temperature)
        super().__init__(env, gamma=gamma, seed=seed)
        self.n_options, self.epsilon, self.temperature = n_options, epsilon, temperature
        self.critic_lr, self.policy_lr, self.termination_lr = critic_lr, policy_lr, termination_lr
        self.baseline, self.entropy = baseline, entropy
        self.deliberation_cost, self.margin = deliberation_cost, margin
        shape = (self.runs, self.n_states, n_options)
        self.q_u, self.theta = np.zeros((*shape, self.n_actions)), np.zeros((*shape, self.n_actions))
        self.nu = np.zeros(shape)
        self.option = np.zeros(self.runs, dtype=np.int64)
        self.ended = np.zeros(self.runs, dtype=np.bool_)  # the option before, upon the latest arrival
        self.begins = np.zeros(self.runs, dtype=np.bool_)  # an episode, with this step
        self.usage = OptionUsage(n_options, self.runs)

    @property
    def q(self) -> Array:
        """Values of options ``(R, S, O)``."""
        return (self.pi * self.q_u).sum(-1)

    @property
    def pi(self) -> Array:
        """Intra-option policies ``(R, S, O, A)``."""
        return softmax(self.theta / self.temperature)

    @property
    def beta(self) -> Array:
        """Terminations ``(R, S, O)``."""
        return sigmoid(self.nu)

    def begin(self, rows: Integers, uniform: Array) -> None:
        values = self._option_values(rows, self.state[rows])
        self.option[rows] = sample_rows(epsilon_soft(values, self.epsilon), uniform[2, rows])
        self.begins[rows] = True

    def act(self, uniform: Array) -> Integers:
        self.usage.add(self.option, ended=self.ended, begins=self.begins, live=~self.waiting)
        return sample_rows(self._policy(self.rows, self.state), uniform[0])

    def update(self, step: TabularStep, uniform: Array) -> None:
        rows, option = self.rows, self.option
        goes_on = step.live & ~(step.terminated | step.truncated)
        values = self._option_values(rows, step.arrival)
        option_value, state_value = values[rows, option], epsilon_soft_value(values, self.epsilon)
        beta = sigmoid(self.nu[rows, step.arrival, option])
        ended = goes_on & (uniform[1] < beta)
        reward = step.reward - self.deliberation_cost * ended
        target = reward + self.gamma * ~step.terminated * arrival_value(option_value, state_value, beta)
        self._learn_action(step, target)
        slope = termination_gradient(beta, option_value, state_value, margin=self.margin)
        self.nu[rows, step.arrival, option] -= self.termination_lr * goes_on * slope
        chosen = sample_rows(epsilon_soft(values, self.epsilon), uniform[2])
        self.option, self.ended = np.where(ended, chosen, option), ended
        self.begins[:] = False

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "usage": self.usage.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.usage.load_state_dict(state["usage"])

    def _learn_action(self, step: TabularStep, target: Array) -> None:
        """Evaluation, then improvement, of the option that acted."""
        rows, place = self.rows, (self.rows, step.state, self.option)
        pi, q_u = self._policy(rows, step.state), self.q_u[place]
        error = target - q_u[rows, step.action]
        q_u[rows, step.action] += self.critic_lr * step.live * error
        self.q_u[place] = q_u
        advantage = q_u[rows, step.action]
        if self.baseline:
            advantage = advantage - (pi * q_u).sum(-1)
        gradient = advantage[:, None] * log_policy_gradient(pi, step.action)
        if self.entropy:
            gradient += self.entropy * entropy_gradient(pi)
        self.theta[place] += self.policy_lr * step.live[:, None] * gradient

    def _policy(self, rows: Integers, state: Integers) -> Array:
        return softmax(self.theta[rows, state, self.option[rows]] / self.temperature)

    def _option_values(self, rows: Integers, state: Integers) -> Array:
        pi = softmax(self.theta[rows, state] / self.temperature)
        return (pi * self.q_u[rows, state]).sum(-1)

"""Actor-critic with tables: the policy-gradient baseline without options."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from athena_hrl._numbers import LARGEST, in_range, positive
from athena_hrl._option_critic_gradients import (
    Array,
    Integers,
    entropy_gradient,
    log_policy_gradient,
    sample_rows,
    softmax,
)
from athena_hrl._tabular_runs import TabularRuns, TabularStep


class TabularActorCritic(TabularRuns):
    r"""Actor-critic policy gradient, many runs side by side: `TabularOptionCritic` without options.

    The policy is :math:`\pi(a \mid s) \propto e^{\theta_{sa} / T}`. With
    :math:`V(s) = \sum_a \pi(a \mid s)\, Q(s, a)`, each step makes

    .. math::
        Q(s, a) &\mathrel{+}= \alpha_Q \bigl(r + \gamma V(s') - Q(s, a)\bigr)

        \theta_s &\mathrel{+}= \alpha_\pi \bigl((Q(s, a) - V(s))\,\nabla \log \pi(a \mid s)
            + h\,\nabla H(\pi(\cdot \mid s))\bigr)

    where :math:`\nabla` is by the logits :math:`\theta / T`. It equals an option-critic with one option,
    number by number.

    Args:
        env: a vector environment with Discrete observations and actions, each row a run; or one environment.
        gamma: :math:`\gamma`.
        critic_lr, policy_lr: :math:`\alpha_Q, \alpha_\pi`.
        temperature: T.
        baseline: whether :math:`V(s)` is taken off.
        entropy: :math:`h`.
        seed: of the first run.

    Attributes:
        q: ``(R, S, A)``.
        theta: ``(R, S, A)``.

    Raises ValueError for numbers outside their range, or other spaces.

    Source: Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function
    approximation", theorem 1. Departs from it: the critic is learned step by step, at its own rate, and the
    step of theta lacks the factor 1/T of the gradient by theta.

    >>> import gymnasium as gym
    >>> TabularActorCritic(gym.make_vec("FrozenLake-v1", 3)).learn(100).pi.shape
    (3, 16, 4)
    """

    tables: ClassVar = ("q", "theta")

    def __init__(
        self,
        env: Any,
        *,
        gamma: float = 0.99,
        critic_lr: float = 0.5,
        policy_lr: float = 0.25,
        temperature: float = 0.01,
        baseline: bool = True,
        entropy: float = 0.0,
        seed: int = 0,
    ) -> None:
        in_range(0, 1, critic_lr=critic_lr)
        in_range(0, LARGEST, policy_lr=policy_lr, entropy=entropy)
        positive(temperature=temperature)
        super().__init__(env, gamma=gamma, seed=seed)
        self.critic_lr, self.policy_lr, self.temperature = critic_lr, policy_lr, temperature
        self.baseline, self.entropy = baseline, entropy
        self.q = np.zeros((self.runs, self.n_states, self.n_actions))
        self.theta = np.zeros_like(self.q)

    @property
    def pi(self) -> Array:
        """The policy ``(R, S, A)``."""
        return softmax(self.theta / self.temperature)

    def begin(self, rows: Integers, uniform: Array) -> None:
        pass  # nothing is chosen for an episode

    def act(self, uniform: Array) -> Integers:
        return sample_rows(self._policy(self.state), uniform[0])

    def update(self, step: TabularStep, uniform: Array) -> None:  # noqa: ARG002  nothing ends here
        rows, place = self.rows, (self.rows, step.state)
        state_value = (self._policy(step.arrival) * self.q[rows, step.arrival]).sum(-1)
        target = step.reward + self.gamma * ~step.terminated * state_value
        pi, q = self._policy(step.state), self.q[place]
        q[rows, step.action] += self.critic_lr * step.live * (target - q[rows, step.action])
        self.q[place] = q
        advantage = q[rows, step.action]
        if self.baseline:
            advantage = advantage - (pi * q).sum(-1)
        gradient = advantage[:, None] * log_policy_gradient(pi, step.action)
        if self.entropy:
            gradient += self.entropy * entropy_gradient(pi)
        self.theta[place] += self.policy_lr * step.live[:, None] * gradient

    def _policy(self, state: Integers) -> Array:
        return softmax(self.theta[self.rows, state] / self.temperature)

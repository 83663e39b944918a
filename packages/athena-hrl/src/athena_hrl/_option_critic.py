"""The deep option-critic on its own policy, in the manner of A2C or of PPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from athena_hrl._numbers import LARGEST, in_range
from athena_hrl._option_critic_losses import (
    clipped_policy_loss,
    mean_over,
    of_option,
    option_advantages,
    policy_gradient_loss,
)
from athena_hrl._option_learner import OptionLearner
from athena_hrl._option_player import OptionStep


class OptionLosses(NamedTuple):
    """The parts of the loss, each a mean over steps, without their weights.

    >>> OptionLosses(*torch.arange(4.0)).entropy
    tensor(3.)
    """

    policy: Tensor
    termination: Tensor
    value: Tensor
    entropy: Tensor


class OptionCritic(OptionLearner):
    r"""Option-critic that learns on its own policy from rollouts, with advantages.

    The loss is, over the steps of a rollout with advantages :math:`A_t` of `option_advantages`,

    .. math::
        -\log \pi(a_t \mid s_t, o_t)\,A_t
            + w_\beta\,\beta(s_{t+1}, o_t)\,\bigl(Q(s_{t+1}, o_t) - V(s_{t+1}) + \xi\bigr)
            + \tfrac{w_Q}{2}\,\bigl(Q(s_t, o_t) - A_t - Q_{old}(s_t, o_t)\bigr)^2
            - h\,H(\pi(\cdot \mid s_t, o_t))

    with :math:`V` the :math:`\epsilon`-soft mixture of :math:`Q`, both constants in the second term, which
    steps that end an episode lack. A truncated episode goes on in value, a terminated one does not. With
    ``clip`` the first term is PPO's. One option that always ends is a plain actor-critic.

    The defaults are in the manner of A2C: one pass over a rollout, without clipping. `ppo` has the others.

    Args:
        env: a vector environment, or one environment; Discrete or Box observations and actions.
        n_options: how many options.
        encoder: takes observations ``(N, *shape)`` to features ``(N, width)``, in place of ``hidden``.
        hidden: widths of the encoder's layers.
        gamma: the discount.
        gae_lambda: :math:`\lambda` of the advantages.
        n_steps: of each environment in a rollout.
        epochs: passes over a rollout.
        minibatches: into which each pass is cut.
        clip: PPO's :math:`\epsilon`; None does not clip.
        normalize_advantage: to mean 0 and deviation 1 in each minibatch.
        epsilon: share of options chosen at random.
        lr: of Adam.
        value_weight: :math:`w_Q`.
        termination_weight: :math:`w_\beta`.
        entropy: :math:`h`.
        deliberation_cost: taken off the reward of a step upon whose arrival the option ended.
        margin: :math:`\xi`, the same cost as a margin in the second term.
        max_grad_norm: to which the norm of the gradient is cut.
        seed: of weights, options, actions and the environment.
        device: where the network is.

    Raises ValueError for numbers outside their range, or spaces that are not supported.

    Source: Bacon, Harb, Precup 2017, arXiv:1609.05140, theorems 1 and 2; deliberation cost Harb et al. 2018,
    arXiv:1709.04571; in the manner of PPO Klissarov et al. 2017, arXiv:1712.00004. Departs from them: the
    choice of options is epsilon-greedy, not learned by a gradient; values upon arrival are in expectation of
    whether the option ends.

    >>> import gymnasium as gym
    >>> agent = OptionCritic(gym.make_vec("CartPole-v1", 4), n_options=2, hidden=(8,), n_steps=8).learn(64)
    >>> agent.steps >= 64, agent.usage.shares.shape
    (True, (2,))
    """

    def __init__(
        self,
        env: Any,
        *,
        n_options: int = 4,
        encoder: nn.Module | None = None,
        hidden: Sequence[int] = (64, 64),
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        n_steps: int = 16,
        epochs: int = 1,
        minibatches: int = 1,
        clip: float | None = None,
        normalize_advantage: bool = False,
        epsilon: float = 0.05,
        lr: float = 7e-4,
        value_weight: float = 1.0,
        termination_weight: float = 1.0,
        entropy: float = 0.01,
        deliberation_cost: float = 0.0,
        margin: float = 0.0,
        max_grad_norm: float = 0.5,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        in_range(1, LARGEST, n_steps=n_steps, epochs=epochs, minibatches=minibatches)
        in_range(0, 1, gae_lambda=gae_lambda, epsilon=epsilon, clip=clip or 0)
        in_range(0, LARGEST, value_weight=value_weight)
        super().__init__(
            env,
            n_options=n_options,
            encoder=encoder,
            hidden=hidden,
            gamma=gamma,
            lr=lr,
            deliberation_cost=deliberation_cost,
            margin=margin,
            termination_weight=termination_weight,
            entropy=entropy,
            max_grad_norm=max_grad_norm,
            seed=seed,
            device=device,
        )
        self.gae_lambda, self.n_steps, self.epsilon = gae_lambda, n_steps, epsilon
        self.epochs, self.minibatches, self.clip = epochs, minibatches, clip
        self.normalize_advantage, self.value_weight = normalize_advantage, value_weight

    @classmethod
    def ppo(cls, env: Any, **options: Any) -> Self:
        """In the manner of PPO: clipping at 0.2, 4 passes in 4 minibatches, advantages normalised, 128 steps.

        >>> import gymnasium as gym
        >>> OptionCritic.ppo(gym.make_vec("CartPole-v1", 2), n_steps=8, hidden=(8,)).clip
        0.2
        """
        manner = {"clip": 0.2, "epochs": 4, "minibatches": 4, "n_steps": 128, "lr": 3e-4}
        return cls(env, **{**manner, "normalize_advantage": True, **options})

    def epsilon_now(self) -> float:
        return self.epsilon

    def rollout(self) -> OptionStep:
        """The next ``n_steps`` steps of each environment, stacked ``(T, N, ...)``."""
        steps = [self.player.step(self.network, epsilon=self.epsilon) for _ in range(self.n_steps)]
        return OptionStep(*(torch.stack(field) for field in zip(*steps, strict=True)))

    def advantages(self, rollout: OptionStep) -> Tensor:
        """Of the actions of a rollout ``(T, N)``, with the deliberation cost in its rewards."""
        return option_advantages(
            rollout.reward - self.deliberation_cost * rollout.ended,
            rollout.value,
            rollout.arrival_value,
            terminated=rollout.terminated,
            truncated=rollout.truncated,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
        )

    def losses(self, steps: OptionStep, advantage: Tensor) -> OptionLosses:
        """The parts of the loss on steps ``(B, ...)`` with their advantages ``(B,)``."""
        target = steps.value + advantage
        if self.normalize_advantage:
            advantage = normalized(advantage, steps.live)
        outputs = self.network(steps.obs)
        log_prob = self.network.log_prob(outputs, steps.option, steps.action)
        if self.clip is None:
            policy = policy_gradient_loss(log_prob, advantage)
        else:
            policy = clipped_policy_loss(log_prob, advantage, old_log_prob=steps.log_prob, clip=self.clip)
        value = 0.5 * (of_option(outputs.values, steps.option) - target) ** 2
        entropy = self.network.entropy(outputs, steps.option)
        return OptionLosses(
            mean_over(policy, steps.live),
            self._termination_loss(steps),
            mean_over(value, steps.live),
            mean_over(entropy, steps.live),
        )

    def total(self, losses: OptionLosses) -> Tensor:
        """The loss that is descended."""
        return (
            losses.policy
            + self.termination_weight * losses.termination
            + self.value_weight * losses.value
            - self.entropy * losses.entropy
        )

    def _improve(self) -> None:
        rollout = self.rollout()
        advantage = self.advantages(rollout).flatten()
        flat = OptionStep(*(field.flatten(0, 1) for field in rollout))
        for _ in range(self.epochs):
            order = torch.randperm(len(advantage), generator=self.generator, device=self.device)
            for part in order.chunk(self.minibatches):
                steps = OptionStep(*(field[part] for field in flat))
                self._descend(self.total(self.losses(steps, advantage[part])))
        self.steps += int(rollout.live.sum())


def normalized(values: Tensor, where: Tensor) -> Tensor:
    """Values less their mean at booleans, over their deviation there.

    Shape: two of ``(B,) -> (B,)``.

    >>> normalized(torch.tensor([1.0, 3.0, 99.0]), torch.tensor([True, True, False]))[:2]
    tensor([-1.,  1.])
    """
    mean = mean_over(values, where)
    return (values - mean) / (mean_over((values - mean) ** 2, where).sqrt() + 1e-8)

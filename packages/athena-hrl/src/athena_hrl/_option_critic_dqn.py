"""The deep option-critic off its policy, in the manner of DQN: values of options from a replay buffer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from athena_hrl._numbers import LARGEST, in_range
from athena_hrl._option_critic_losses import (
    mean_over,
    of_option,
    policy_gradient_loss,
    soft_option_value,
    value_upon_arrival,
)
from athena_hrl._option_learner import OptionLearner
from athena_hrl._option_player import OptionStep
from athena_hrl._transition_ring import TransitionRing


class OptionTransitions(NamedTuple):
    """Steps from the replay buffer, ``(B, ...)``.

    >>> OptionTransitions._fields
    ('obs', 'option', 'reward', 'arrival', 'terminated', 'goes_on')
    """

    obs: Tensor
    option: Tensor
    reward: Tensor
    arrival: Tensor
    terminated: Tensor
    goes_on: Tensor


class OptionCriticDQN(OptionLearner):
    r"""Option-critic whose values of options are learned from a replay buffer, with a target network.

    From steps that are drawn from the buffer, the critic learns

    .. math::
        y = r - c\,\beta(s', o)\,[\text{the episode goes on}]
            + \gamma\,(1 - d)\,\bigl((1 - \beta(s', o))\,\bar Q(s', o) + \beta(s', o)\,\bar V(s')\bigr)

    by Huber's loss on :math:`y - Q(s, o)`, where bars are of the target network and V is the
    :math:`\epsilon`-soft mixture. Policies and terminations learn from the latest step alone, since it must
    be of the policy that acts: the first with the advantage :math:`y - Q(s, o)`, the second by
    `termination_loss`.

    Args:
        env: a vector environment, or one environment; Discrete or Box observations and actions.
        n_options: how many options.
        encoder: takes observations ``(N, *shape)`` to features ``(N, width)``, in place of ``hidden``.
        hidden: widths of the encoder's layers.
        gamma: the discount.
        buffer_size: transitions; observations are kept as float32.
        batch_size: transitions of a step of the critic.
        learning_starts: steps before the first update.
        train_every: steps of the vector environment between two updates of the critic.
        target_every: updates of the critic after which the target network becomes a copy.
        epsilon: share of options chosen at random, in the end.
        epsilon_start: and at the start.
        epsilon_steps: over which it falls, linearly.
        lr: of Adam.
        termination_weight: of the termination's loss.
        entropy: weight of the bonus on the entropy of intra-option policies.
        deliberation_cost: :math:`c`, here in expectation: buffers outlive terminations.
        margin: :math:`\xi`.
        max_grad_norm: to which the norm of the gradient is cut.
        seed: of weights, options, actions, the buffer and the environment.
        device: where the network is.

    Raises ValueError for numbers outside their range, or spaces that are not supported.

    Source: Bacon, Harb, Precup 2017, arXiv:1609.05140, "Arcade Learning Environment"; Mnih et al. 2015,
    "Human-level control through deep reinforcement learning"; deliberation cost Harb et al. 2018,
    arXiv:1709.04571. Departs from them: V is that of the epsilon-greedy choice.

    >>> import gymnasium as gym
    >>> agent = OptionCriticDQN(gym.make("CartPole-v1"), n_options=2, hidden=(8,), learning_starts=20).learn(
    ...     40
    ... )
    >>> agent.steps, len(agent.buffer)
    (40, 40)
    """

    def __init__(
        self,
        env: Any,
        *,
        n_options: int = 4,
        encoder: nn.Module | None = None,
        hidden: Sequence[int] = (64, 64),
        gamma: float = 0.99,
        buffer_size: int = 50_000,
        batch_size: int = 32,
        learning_starts: int = 1_000,
        train_every: int = 1,
        target_every: int = 200,
        epsilon: float = 0.05,
        epsilon_start: float = 1.0,
        epsilon_steps: int = 10_000,
        lr: float = 5e-4,
        termination_weight: float = 1.0,
        entropy: float = 0.01,
        deliberation_cost: float = 0.0,
        margin: float = 0.0,
        max_grad_norm: float = 10.0,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        counts = {"train_every": train_every, "target_every": target_every, "epsilon_steps": epsilon_steps}
        in_range(1, LARGEST, batch_size=batch_size, **counts)
        in_range(0, 1, epsilon=epsilon, epsilon_start=epsilon_start)
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
        self.batch_size, self.learning_starts = batch_size, learning_starts
        self.train_every, self.target_every = train_every, target_every
        self.epsilon, self.epsilon_start, self.epsilon_steps = epsilon, epsilon_start, epsilon_steps
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        shape = self.player.spaces[0].shape or ()
        shapes = {"obs": shape, "arrival": shape}
        shapes |= dict.fromkeys(("option", "reward", "terminated", "goes_on"), ())
        self.buffer = TransitionRing(buffer_size, shapes, device=self.device, seed=seed)
        self.vector_steps = self.updates = 0

    def epsilon_now(self) -> float:
        share = min(1.0, self.steps / self.epsilon_steps)
        return self.epsilon_start + share * (self.epsilon - self.epsilon_start)

    def targets(self, steps: OptionTransitions | OptionStep) -> Tensor:
        """:math:`y` of steps ``(B,)``."""
        with torch.no_grad():
            beta = of_option(self.network(steps.arrival).beta, steps.option)
            values = self.target(steps.arrival).values
            state_value = soft_option_value(values, self.epsilon_now())
            value = value_upon_arrival(of_option(values, steps.option), state_value, beta)
            reward = steps.reward - self.deliberation_cost * (beta * steps.goes_on)
            return reward + self.gamma * (~steps.terminated * value)

    def critic_loss(self, steps: OptionTransitions) -> Tensor:
        """Huber's loss of values of options, a mean over transitions."""
        value = of_option(self.network(steps.obs).values, steps.option)
        return smooth_l1_loss(value, self.targets(steps))

    def actor_loss(self, step: OptionStep) -> Tensor:
        """The loss of policies and terminations on the latest step, a mean over environments."""
        outputs = self.network(step.obs)
        log_prob = self.network.log_prob(outputs, step.option, step.action)
        advantage = self.targets(step) - of_option(outputs.values, step.option)
        policy = policy_gradient_loss(log_prob, advantage)
        entropy = self.network.entropy(outputs, step.option)
        return (
            mean_over(policy, step.live)
            + self.termination_weight * self._termination_loss(step)
            - self.entropy * mean_over(entropy, step.live)
        )

    def state_dict(self) -> dict[str, Any]:
        """As of every learner, and the target network; the buffer is not in it."""
        own = {"target": self.target.state_dict(), "updates": self.updates}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.target.load_state_dict(state["target"])
        self.updates = int(state["updates"])

    def _improve(self) -> None:
        step = self.player.step(self.network, epsilon=self.epsilon_now())
        self.steps += int(step.live.sum())
        self.vector_steps += 1
        rows = {name: getattr(step, name)[step.live] for name in OptionTransitions._fields}
        if step.live.any():
            self.buffer.add(**rows)
        if len(self.buffer) == 0 or self.steps < self.learning_starts:
            return
        loss, trains = self.actor_loss(step), self.vector_steps % self.train_every == 0
        if trains:
            drawn = self.buffer.sample(self.batch_size)
            loss = loss + self.critic_loss(_restored(drawn))
            self.updates += 1
        self._descend(loss)
        if trains and self.updates % self.target_every == 0:
            self.target.load_state_dict(self.network.state_dict())


def _restored(rows: Mapping[str, Tensor]) -> OptionTransitions:
    """Rows of the buffer, whose numbers are all floats, in their own types."""
    types = {"option": torch.long, "terminated": torch.bool, "goes_on": torch.bool}
    return OptionTransitions(**{name: rows[name].to(types.get(name)) for name in OptionTransitions._fields})

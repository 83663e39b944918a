"""The network of the deep option-critic: values, terminations and policies of options over one encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import one_hot

from athena_hrl._option_critic_losses import mlp, of_option


class OptionOutputs(NamedTuple):
    """What the network says of ``N`` observations.

    Args:
        values: :math:`Q(s, o)` ``(N, O)``.
        beta: :math:`\\beta(s, o)` ``(N, O)``.
        policy: logits of actions ``(N, O, A)``, or means of continuous ones ``(N, O, D)``.

    >>> OptionOutputs(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1, 2, 4)).policy.shape
    torch.Size([1, 2, 4])
    """

    values: Tensor
    beta: Tensor
    policy: Tensor


class OptionNetwork(nn.Module):
    r"""An encoder with three linear heads: :math:`Q(s, o)`, :math:`\beta(s, o)` and :math:`\pi(a \mid s, o)`.

    Policies are softmaxes for Discrete actions; for those of a Box, Gaussians whose deviations are
    parameters, one an option and dimension.

    Args:
        observation_space: Discrete (one-hot to the encoder) or Box.
        action_space: Discrete, or a Box of one axis.
        n_options: O.
        hidden: widths of the encoder's layers, with tanh.
        encoder: takes float observations ``(N, *shape)`` to ``(N, width)``; in place of ``hidden``.

    Raises ValueError for other spaces or widths.

    >>> network = OptionNetwork(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), n_options=4, hidden=(8,))
    >>> [tuple(output.shape) for output in network(torch.zeros(5, 3))]
    [(5, 4), (5, 4), (5, 4, 2)]
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        n_options: int,
        hidden: Sequence[int] = (64, 64),
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if n_options < 1:
            raise ValueError(f"`n_options` must be at least 1; got {n_options}.")
        if min(hidden, default=1) < 1:
            raise ValueError(f"`hidden` must hold widths of at least 1; got {list(hidden)}.")
        self.n_options, self.n_states, self.first_state = n_options, 0, 0
        if isinstance(observation_space, spaces.Discrete):
            self.n_states, self.first_state = int(observation_space.n), int(observation_space.start)
            shape: tuple[int, ...] = (self.n_states,)
        elif isinstance(observation_space, spaces.Box):
            shape = observation_space.shape or (1,)  # a number without axes gets one
        else:
            raise ValueError(
                f"`observation_space` must be Discrete or a Box; got {observation_space}. Wrap the "
                "environment in `gymnasium.wrappers.FlattenObservation`."
            )
        self.discrete, self.action_dim = _actions(action_space)
        self.encoder = encoder or nn.Sequential(nn.Flatten(), mlp([math.prod(shape), *hidden]))
        with torch.no_grad():
            width = self.encoder(torch.zeros(1, *shape)).shape[-1]
        self.value_head = nn.Linear(width, n_options)
        self.termination_head = nn.Linear(width, n_options)
        self.policy_head = nn.Linear(width, n_options * self.action_dim)
        with torch.no_grad():  # at the start every option ends half of the time and acts evenly
            self.termination_head.weight.mul_(0.01)
            self.termination_head.bias.zero_()
            self.policy_head.weight.mul_(0.01)
            self.policy_head.bias.zero_()
        if not self.discrete:
            self.log_std = nn.Parameter(torch.zeros(n_options, self.action_dim))

    def forward(self, observation: Tensor) -> OptionOutputs:
        if self.n_states:
            observation = one_hot(observation.long() - self.first_state, self.n_states)
        elif observation.ndim == 1:
            observation = observation[:, None]
        features = self.encoder(observation.to(self.value_head.weight.dtype))
        policy = self.policy_head(features).unflatten(-1, (self.n_options, self.action_dim))
        return OptionOutputs(self.value_head(features), self.termination_head(features).sigmoid(), policy)

    def sample(self, outputs: OptionOutputs, option: Tensor, *, generator: torch.Generator) -> Tensor:
        """Actions of options, ``(N,)`` from 0 or ``(N, D)``."""
        policy = of_option(outputs.policy, option)
        if self.discrete:
            return torch.multinomial(policy.softmax(-1), 1, generator=generator)[:, 0]
        noise = torch.randn(policy.shape, generator=generator, device=policy.device, dtype=policy.dtype)
        return policy + noise * self.log_std[option].exp()

    def best(self, outputs: OptionOutputs, option: Tensor) -> Tensor:
        """The most probable actions of options."""
        policy = of_option(outputs.policy, option)
        return policy.argmax(-1) if self.discrete else policy

    def log_prob(self, outputs: OptionOutputs, option: Tensor, action: Tensor) -> Tensor:
        """The logarithm of the probability, or its density, of actions under options ``(N,)``."""
        policy = of_option(outputs.policy, option)
        if self.discrete:
            return policy.log_softmax(-1).gather(-1, action[:, None])[:, 0]
        log_std = self.log_std[option]
        deviation = (action - policy) * (-log_std).exp()
        return (-0.5 * deviation**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, outputs: OptionOutputs, option: Tensor) -> Tensor:
        """The entropy of the policies of options ``(N,)``."""
        if self.discrete:
            log_prob = of_option(outputs.policy, option).log_softmax(-1)
            return -(log_prob.exp() * log_prob).sum(-1)
        return (self.log_std[option] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def epsilon_greedy(values: Tensor, epsilon: float, *, generator: torch.Generator) -> Tensor:
    """The best option of each row, or with ``epsilon`` any.

    Shape: ``(N, O) -> (N,)``.

    >>> epsilon_greedy(torch.tensor([[1.0, 3.0]]), 0.0, generator=torch.Generator())
    tensor([1])
    """
    any_option = torch.randint(values.shape[1], values.shape[:1], generator=generator, device=values.device)
    explores = torch.rand(values.shape[:1], generator=generator, device=values.device) < epsilon
    return torch.where(explores, any_option, values.argmax(-1))


def _actions(space: spaces.Space[Any]) -> tuple[bool, int]:
    """Whether actions are Discrete, and how many, or how many dimensions they have."""
    if isinstance(space, spaces.Discrete):
        return True, int(space.n)
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        return False, space.shape[0]
    raise ValueError(f"`action_space` must be Discrete or a Box of floats with one axis; got {space}.")

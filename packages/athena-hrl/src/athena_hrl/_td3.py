"""TD3: an actor and two critics with their targets, the update that the levels of a hierarchy share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_hrl._numbers import LARGEST, in_range, positive


class TD3Batch(NamedTuple):
    """Transitions, ``N`` of them. The discount is 0 where the future has no value, so that no flag is needed.

    >>> TD3Batch(
    ...     torch.zeros(1, 3), torch.zeros(1, 2), torch.ones(1), torch.full((1,), 0.9), torch.zeros(1, 3)
    ... )[2]
    tensor([1.])
    """

    observation_t: Tensor  # (N, O)
    action_t: Tensor  # (N, A), in [-1, 1]
    reward_tp1: Tensor  # (N,)
    discount_tp1: Tensor  # (N,)
    observation_tp1: Tensor  # (N, O)


def td3_target(
    reward_tp1: Tensor,
    discount_tp1: Tensor,
    values_tp1: Tensor,
    *,
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    r"""What both critics regress on, clipped double Q-learning.

    .. math:: y_t = r_{t+1} + \gamma_{t+1} \min_{i = 1, 2} Q'_i(s_{t+1}, \tilde a_{t+1})

    Args:
        reward_tp1, discount_tp1: of the transitions.
        values_tp1: of the target critics.
        bounds: between which all returns lie, if that is known; targets are clipped to them.

    Shape: ``(N,), (N,), (2, N) -> (N,)``.
    Source: Fujimoto et al. 2018, arXiv:1802.09477, equation 10; the bounds as in Andrychowicz et al. 2017,
    arXiv:1707.01495, appendix A. Departs from it: no.

    >>> td3_target(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.0]), torch.tensor([[4.0, 4.0], [2.0, 9.0]]))
    tensor([2., 1.])
    """
    target = reward_tp1 + discount_tp1 * values_tp1.min(0).values
    return target if bounds is None else target.clamp(*bounds)


def smoothed_action(action: Tensor, noise: Tensor, clip: float) -> Tensor:
    r"""Target policy smoothing: noise on the target's action, clipped as it is.

    .. math:: \tilde a = \operatorname{clip}(a + \operatorname{clip}(\epsilon, -c, c), -1, 1)

    Args:
        action: of the target actor.
        noise: Gaussian, of the deviation wanted.
        clip: :math:`c`.

    Shape: both ``(N, A)``.
    Source: Fujimoto et al. 2018, arXiv:1802.09477, section 5.3 and algorithm 1. Departs from it: no.

    >>> smoothed_action(torch.tensor([0.0, 0.9]), torch.tensor([3.0, 0.2]), 0.5)
    tensor([0.5000, 1.0000])
    """
    return (action + noise.clamp(-clip, clip)).clamp(-1, 1)


class TwinCritic(nn.Module):
    """Two networks of the same shape side by side, as one product of matrices a layer.

    Shape: ``(N, O), (N, A) -> (2, N)``.

    >>> TwinCritic(3, 2, hidden=[8])(torch.zeros(5, 3), torch.zeros(5, 2)).shape
    torch.Size([2, 5])
    """

    def __init__(self, observation_dim: int, action_dim: int, *, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [observation_dim + action_dim, *hidden, 1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for n_in, n_out in pairwise(widths):
            layers = [nn.Linear(n_in, n_out) for _ in range(2)]
            self.weights.append(torch.stack([layer.weight.detach().T for layer in layers]))
            self.biases.append(torch.stack([layer.bias.detach() for layer in layers])[:, None])

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        hidden = torch.cat((observation, action), -1).expand(2, -1, -1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            hidden = hidden if layer == last else F.relu(hidden)
        return hidden[..., 0]


def deterministic_actor(observation_dim: int, action_dim: int, *, hidden: Sequence[int]) -> nn.Sequential:
    """A network to actions in [-1, 1].

    >>> deterministic_actor(3, 2, hidden=[8])(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise([observation_dim, *hidden]):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    last = [observation_dim, *hidden][-1]
    return nn.Sequential(*layers, nn.Linear(last, action_dim), nn.Tanh())


class TD3:
    r"""Twin delayed deep deterministic policy gradient, one level's learner; actions lie in [-1, 1].

    Both critics descend :math:`\sum_i (Q_i(s_t, a_t) - y_t)^2` (`td3_target`), with the target actor's action
    smoothed (`smoothed_action`). Every ``policy_delay`` updates the actor ascends
    :math:`Q_1(s_t, \mu(s_t))` and the targets follow by :math:`\theta' \mathrel{+}= \tau (\theta - \theta')`.

    Args:
        observation_dim, action_dim: widths; an observation holds the goal too.
        hidden: widths of the layers of all networks.
        actor_lr, critic_lr: of Adam.
        tau: share of the way that the targets follow.
        policy_delay: critics' updates for one of the actor.
        target_noise, noise_clip: deviation and limit of the smoothing noise.
        bounds: between which all returns lie, where that is known.
        seed: of the weights and all noise.
        device: of the networks.

    Raises ValueError for numbers outside their range.

    Source: Fujimoto et al. 2018, arXiv:1802.09477, algorithm 1. Departs from it: discounts come with the
    transitions; ``bounds``.

    >>> td3 = TD3(3, 2, hidden=[8], seed=0)
    >>> batch = TD3Batch(torch.ones(4, 3), torch.zeros(4, 2), torch.ones(4), torch.zeros(4), torch.ones(4, 3))
    >>> losses = [td3.update(batch)["critic_loss"] for _ in range(100)]
    >>> losses[-1] < losses[0]
    True
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        hidden: Sequence[int] = (256, 256),
        actor_lr: float = 1e-4,
        critic_lr: float = 1e-3,
        tau: float = 0.005,
        policy_delay: int = 2,
        target_noise: float = 0.2,
        noise_clip: float = 0.5,
        bounds: tuple[float, float] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        in_range(1, LARGEST, action_dim=action_dim, policy_delay=policy_delay)
        in_range(0, LARGEST, target_noise=target_noise, noise_clip=noise_clip)
        in_range(0, 1, tau=tau)
        positive(tau=tau, actor_lr=actor_lr, critic_lr=critic_lr)
        self.tau, self.policy_delay, self.bounds = tau, policy_delay, bounds
        self.target_noise, self.noise_clip = target_noise, noise_clip
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator
            torch.default_generator.manual_seed(seed)
            self.actor = deterministic_actor(observation_dim, action_dim, hidden=hidden).to(device)
            self.critic = TwinCritic(observation_dim, action_dim, hidden=hidden).to(device)
        self.target_actor, self.target_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=actor_lr, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=critic_lr, fused=True)
        self.generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on every device
        self.updates = 0

    @torch.no_grad()
    def act(self, observation: Tensor, *, noise: float = 0.0) -> Tensor:
        """Actions ``(N, A)`` for observations ``(N, O)``, with Gaussian noise of a deviation, clipped."""
        action = self.actor(observation)
        return (action + noise * self._normal(action)).clamp(-1, 1) if noise else action

    def update(self, batch: TD3Batch) -> dict[str, float]:
        """One step of both critics, and every ``policy_delay``-th time one of the actor; the losses."""
        self.updates += 1
        target = self.target(batch)
        critic_loss = (self.critic(batch.observation_t, batch.action_t) - target).square().mean(1).sum()
        _descend(self.critic_optimizer, critic_loss)
        losses = {"critic_loss": critic_loss.item()}
        if self.updates % self.policy_delay == 0:
            losses["actor_loss"] = self._update_actor(batch.observation_t)
        return losses

    @torch.no_grad()
    def target(self, batch: TD3Batch) -> Tensor:
        """`td3_target` of a batch, ``(N,)``."""
        action = self.target_actor(batch.observation_tp1)
        action = smoothed_action(action, self.target_noise * self._normal(action), self.noise_clip)
        values = self.target_critic(batch.observation_tp1, action)
        return td3_target(batch.reward_tp1, batch.discount_tp1, values, bounds=self.bounds)

    def _update_actor(self, observation_t: Tensor) -> float:
        self.critic.requires_grad_(False)
        loss = -self.critic(observation_t, self.actor(observation_t))[0].mean()
        _descend(self.actor_optimizer, loss)
        self.critic.requires_grad_(True)
        for network, target in ((self.actor, self.target_actor), (self.critic, self.target_critic)):
            with torch.no_grad():
                torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), self.tau)
        return loss.item()

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator).to(like)

    def state_dict(self) -> dict[str, Any]:
        """All networks, both optimizers, the generator's place and the number of updates."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        return {**parts, "generator": self.generator.get_state(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises RuntimeError for networks of another shape, as torch does."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(copy.deepcopy(state[name]))  # optimizers would share tensors
        self.generator.set_state(torch.as_tensor(state["generator"]).cpu())
        self.updates = state["updates"]


_PARTS = ("actor", "critic", "target_actor", "target_critic", "actor_optimizer", "critic_optimizer")


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

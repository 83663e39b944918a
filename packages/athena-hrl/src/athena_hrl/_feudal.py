"""FeUdal networks, a small version: advantage actor-critic for a manager and a worker at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch import Tensor

from athena_hrl._bounds import normalizer
from athena_hrl._episode_rows import EpisodeRows
from athena_hrl._feudal_losses import discounted_returns, feudal_reward, transition_policy_loss
from athena_hrl._feudal_network import FeudalMemory, FeudalNetwork
from athena_hrl._numbers import LARGEST, in_range


class FeudalRollout(NamedTuple):
    """``T`` steps of ``B`` rows; the last axis of returns and values is the manager's and the worker's.

    >>> FeudalRollout(*[torch.zeros(1, 1)] * 8)._fields[:3]
    ('latent', 'goal', 'log_prob')
    """

    latent: Tensor  # (T, B, D)
    goal: Tensor  # (T, B, D)
    log_prob: Tensor  # (T, B)
    entropy: Tensor  # (T, B)
    values: Tensor  # (T, B, 2)
    returns: Tensor  # (T, B, 2)
    ended: Tensor  # (T, B)
    valid: Tensor  # (T, B): 0 where a step only began a row again


class Feudal:
    r"""A manager on the extrinsic reward, a worker on it and on following the manager's directions.

    The manager descends `transition_policy_loss`, the worker the policy gradient of
    :math:`R_t + \alpha R^I_t - V^W_t` with the intrinsic reward of `feudal_reward`; both values their squared
    errors. Returns are those of a rollout; truncation is bootstrapped, termination is not.

    Args:
        env: an environment, or a vector of them in any mode of starting again. Actions are Discrete,
            observations a Box, or a Dict of Boxes with ``observation`` and ``desired_goal``.
        horizon: :math:`c`.
        n_steps: of a rollout, more than ``horizon``.
        gamma: discount of the manager.
        worker_gamma: discount of the worker.
        intrinsic: :math:`\alpha`.
        entropy: weight of the worker's entropy.
        lr: of RMSprop.
        latent_dim, embedding_dim: of `FeudalNetwork`.
        seed: of the network and the actions.
        device: of the network.

    Raises ValueError for numbers outside their range, or other actions.

    Source: Vezhnevets et al. 2017, arXiv:1703.01161. Departs from it: advantage actor-critic of rollouts in
    place of the asynchronous one; the departures of `FeudalNetwork`.

    >>> agent = Feudal(gym.make_vec("CartPole-v1", 2), horizon=3, n_steps=8, latent_dim=8).learn(32)
    >>> agent.steps >= 32
    True
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any],
        *,
        horizon: int = 10,
        n_steps: int = 40,
        gamma: float = 0.99,
        worker_gamma: float = 0.95,
        intrinsic: float = 0.5,
        entropy: float = 0.01,
        lr: float = 1e-3,
        latent_dim: int = 32,
        embedding_dim: int = 8,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if n_steps <= horizon:
            raise ValueError(f"`n_steps` must exceed `horizon`, {horizon}; got {n_steps}.")
        in_range(0, 1, gamma=gamma, worker_gamma=worker_gamma)
        in_range(0, LARGEST, intrinsic=intrinsic, entropy=entropy, lr=lr)
        self.rows, self.seed, self.device = EpisodeRows(env), seed, torch.device(device)
        if not isinstance(self.rows.action_space, spaces.Discrete):
            raise ValueError(f"actions must be Discrete; got {self.rows.action_space}. Take HIRO for a Box.")
        self.first_action = int(self.rows.action_space.start)
        self.horizon, self.n_steps, self.intrinsic, self.entropy = horizon, n_steps, intrinsic, entropy
        width = self.rows.state_dim + self.rows.goal_dim
        options = {"horizon": horizon, "latent_dim": latent_dim, "embedding_dim": embedding_dim}
        with torch.random.fork_rng(devices=[]):  # layers draw from the global generator
            torch.default_generator.manual_seed(seed)
            network = FeudalNetwork(width, int(self.rows.action_space.n), **options)
        self.network = network.to(self.device)
        self.optimizer = torch.optim.RMSprop(self.network.parameters(), lr=lr)
        self.generator = torch.Generator().manual_seed(seed)
        self.discounts = torch.tensor([gamma, worker_gamma], device=self.device)
        parts = zip(normalizer(self.rows.state_space), normalizer(self.rows.goal_space), strict=True)
        centre, scale = (torch.from_numpy(np.concatenate(pair)).to(self.device) for pair in parts)
        self._centre, self._scale = centre, scale
        self.memory = self.network.start(self.rows.num_envs)
        self.steps = 0

    def learn(self, steps: int) -> Feudal:
        """Play rollouts until at least ``steps`` more were made, of all rows together; learn from each."""
        if not self.rows.begun:
            self.rows.start(seed=self.seed)
            self.memory = self.network.start(self.rows.num_envs)
        until = self.steps + steps
        while self.steps < until:
            rollout = self.rollout()
            self.optimizer.zero_grad()
            self.loss(rollout).backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 0.5)
            self.optimizer.step()
            self.memory = self.memory.detached()
        return self

    def rollout(self) -> FeudalRollout:
        """Play ``n_steps`` of every row; gradients reach back to where they began."""
        noted: list[list[Tensor]] = []
        rewards, discounts, bootstraps = [], [], []
        for step in range(self.n_steps):
            output, memory = self.network(self._input(*self.rows.observed), self.memory)
            chances = output.logits.softmax(-1)
            drawn = torch.multinomial(chances.detach().cpu(), 1, generator=self.generator)[:, 0]
            played = self.rows.step(drawn.numpy() + self.first_action)
            log_probs = output.logits.log_softmax(-1)
            log_prob = log_probs.gather(1, drawn.to(self.device)[:, None])[:, 0]
            ended = torch.from_numpy(played.terminated | played.truncated).to(self.device)
            valid = torch.from_numpy(played.valid).to(self.device)
            entropy = -(chances * log_probs).sum(-1)
            noted.append([output.latent, output.goal, log_prob, entropy, output.values, ended, valid])
            reached = self._input(*played.reached)
            rewards.append(self._rewards(played.reward, reached, memory))
            discounts.append(self.discounts * ~ended[:, None])
            cut = torch.from_numpy(played.truncated & ~played.terminated).to(self.device)
            cut = cut | (~ended if step == self.n_steps - 1 else torch.zeros_like(ended))
            with torch.no_grad():
                bootstraps.append(self.discounts * self.network.state_values(reached) * cut[:, None])
            self.memory = memory.restarted(ended | ~valid)
            self.steps += int(played.valid.sum())
        latent, goal, log_prob, entropy, values, ended, valid = (
            torch.stack(column) for column in zip(*noted, strict=True)
        )
        pairs = (torch.stack(column) for column in (rewards, discounts, bootstraps))
        returns = discounted_returns(*pairs)
        # A step that only began a row again stands between two episodes, and is no part of either.
        return FeudalRollout(latent, goal, log_prob, entropy, values, returns, ended | ~valid, valid)

    @torch.no_grad()
    def _rewards(self, reward: Any, reached: Tensor, memory: FeudalMemory) -> Tensor:
        """The manager's and the worker's, ``(B, 2)``."""
        extrinsic = torch.as_tensor(reward, dtype=torch.float32, device=self.device)
        followed = feudal_reward(
            self.network.state_latent(reached), memory.latents, memory.goals, memory.mask
        )
        return torch.stack((extrinsic, extrinsic + self.intrinsic * followed), -1)

    def loss(self, rollout: FeudalRollout) -> Tensor:
        """Both policies' losses, both values' squared errors, less the entropy; means over steps."""
        valid = rollout.valid.float()
        count = valid.sum().clamp(min=1)
        advantage = (rollout.returns - rollout.values).detach()
        c = self.horizon
        # An end at step t parts t from t + 1: none may lie among t, ..., t + c - 1.
        ends = rollout.ended.float().cumsum(0)
        before = torch.cat((torch.zeros_like(ends[:1]), ends))  # ends among the first t steps
        mask = (before[c:-1] == before[: -c - 1]).float() * valid[:-c]
        manager = transition_policy_loss(
            rollout.latent[:-c], rollout.latent[c:], rollout.goal[:-c], advantage[:-c, :, 0], mask
        )
        worker = -(rollout.log_prob * advantage[..., 1] * valid).sum() / count
        errors = ((rollout.returns - rollout.values).square().sum(-1) * valid).sum() / count
        entropy = (rollout.entropy * valid).sum() / count
        return manager + worker + 0.5 * errors - self.entropy * entropy

    def predict(self, observation: Any, memory: FeudalMemory | None = None) -> tuple[Any, FeudalMemory]:
        """The likeliest actions for a batch of observations ``(N, *shape)``, and what the next call needs.

        `FeudalMemory.restarted` forgets rows whose episodes began since.
        """
        state = self._input(*self.rows.read(observation))
        memory = self.network.start(len(state)) if memory is None else memory
        with torch.no_grad():
            output, after = self.network(state, memory)
        return output.logits.argmax(-1).cpu().numpy() + self.first_action, after

    def _input(self, state: Any, goal: Any) -> Tensor:
        joined = torch.from_numpy(np.concatenate((state, goal), -1)).to(self.device)
        return (joined - self._centre) / self._scale

    def state_dict(self) -> dict[str, Any]:
        """All that the next rollout depends on; the environment's part where it has a ``state_dict``."""
        return {
            **{name: getattr(self, name).state_dict() for name in _PARTS},
            "memory": list(self.memory.detached()),
            "generator": self.generator.get_state(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises RuntimeError for networks of another shape, as torch does."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(copy.deepcopy(state[name]))  # optimizers would share tensors
        *tensors, step = state["memory"]
        self.memory = FeudalMemory._make(
            [*(torch.as_tensor(one, device=self.device) for one in tensors), step]
        )
        self.generator.set_state(torch.as_tensor(state["generator"]).cpu())
        self.steps = state["steps"]


_PARTS = ("rows", "network", "optimizer")

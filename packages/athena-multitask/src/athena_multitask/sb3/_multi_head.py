"""An actor and critics with one head a task."""

from __future__ import annotations

from typing import Any, cast

import torch
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, Actor, SACPolicy
from torch import Tensor, nn

from athena_multitask.sb3._task_of import TaskOf


def own_head(outputs: Tensor, tasks: Tensor, *, n_tasks: int) -> Tensor:
    """Of the outputs of all heads, those of each row's own task.

    Computing all and choosing is one matrix product, whatever the tasks of the rows.

    Shape: ``(batch, n_tasks * k)`` and ``(batch,) -> (batch, k)``.

    >>> own_head(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([0, 1]), n_tasks=2)
    tensor([[1, 2],
            [7, 8]])
    """
    heads = outputs.view(len(outputs), n_tasks, -1)
    return torch.take_along_dim(heads, tasks.view(-1, 1, 1), 1).squeeze(1)


class MultiHeadActor(Actor):
    """Stable-Baselines3's actor of SAC with a mean and a deviation a task, on one trunk."""

    def __init__(self, *, n_tasks: int, task_of: TaskOf, **options: Any) -> None:
        super().__init__(**options)
        if self.use_sde:
            raise ValueError('`use_sde` must be False with heads="multi"; got True. Leave it out.')
        self.n_tasks, self.task_of = n_tasks, task_of
        width, size = cast(nn.Linear, self.mu).in_features, get_action_dim(self.action_space) * n_tasks
        self.mu, self.log_std = nn.Linear(width, size), nn.Linear(width, size)

    def get_action_dist_params(self, obs: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        latent = self.latent_pi(self.extract_features(obs, self.features_extractor))
        tasks = self.task_of(obs)
        means = own_head(self.mu(latent), tasks, n_tasks=self.n_tasks)
        log_stds = own_head(cast(nn.Linear, self.log_std)(latent), tasks, n_tasks=self.n_tasks)
        return means, log_stds.clamp(LOG_STD_MIN, LOG_STD_MAX), {}

    def head_parameters(self) -> list[nn.Parameter]:
        return [*self.mu.parameters(), *cast(nn.Linear, self.log_std).parameters()]


class MultiHeadCritic(ContinuousCritic):
    """Stable-Baselines3's critics with a value a task, on one trunk each."""

    def __init__(self, *, n_tasks: int, task_of: TaskOf, **options: Any) -> None:
        super().__init__(**options)
        self.n_tasks, self.task_of = n_tasks, task_of
        for network in self.q_networks:
            layers = cast(nn.Sequential, network)
            layers[-1] = nn.Linear(cast(nn.Linear, layers[-1]).in_features, n_tasks)

    def forward(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        tasks = self.task_of(obs)
        return tuple(own_head(value, tasks, n_tasks=self.n_tasks) for value in super().forward(obs, actions))

    def head_parameters(self) -> list[nn.Parameter]:
        return [
            weight for network in self.q_networks for weight in cast(nn.Sequential, network)[-1].parameters()
        ]


class MultiHeadSACPolicy(SACPolicy):
    """Stable-Baselines3's policy of SAC with one head a task, in the actor and in each critic.

    Args:
        n_tasks: their number.
        task_of: the tasks of a batch of observations.
        **options: as the original's.

    Raises ValueError for state-dependent exploration.

    Source: Yu et al. 2019, arXiv:1910.10897, section 5 (multi-task multi-head SAC). Departs from it: no.

    >>> from gymnasium.spaces import Box
    >>> from athena_multitask.sb3 import OneHotTask
    >>> box, rate = Box(-1, 1, (3,)), lambda _: 1e-3
    >>> policy = MultiHeadSACPolicy(box, box, rate, n_tasks=2, task_of=OneHotTask(2), net_arch=[8])
    >>> policy.actor.mu, policy.critic.q_networks[0][-1].out_features
    (Linear(in_features=8, out_features=6, bias=True), 2)
    """

    def __init__(self, *args: Any, n_tasks: int, task_of: TaskOf, **options: Any) -> None:
        self._tasks = {"n_tasks": n_tasks, "task_of": task_of}
        super().__init__(*args, **options)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        options = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return MultiHeadActor(**options, **self._tasks).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        options = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return MultiHeadCritic(**options, **self._tasks).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self._tasks}

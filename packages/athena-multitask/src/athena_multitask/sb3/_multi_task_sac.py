"""Soft actor-critic on several tasks at once, on top of Stable-Baselines3's."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from gymnasium.vector import VectorEnv
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

from athena_core.environments.sb3 import GymnasiumVecEnv
from athena_multitask._balance import balance
from athena_multitask._balance_checks import Method
from athena_multitask.sb3._multi_head import MultiHeadActor, MultiHeadCritic, MultiHeadSACPolicy
from athena_multitask.sb3._sac_losses import actor_losses, critic_losses, soft_targets, temperature_losses
from athena_multitask.sb3._sac_state import load_sac_state, sac_state
from athena_multitask.sb3._task_of import OneHotTask, TaskOf
from athena_multitask.sb3._task_replay import TaskReplayBuffer

METRICS = "critic_loss", "actor_loss", "ent_coef", "ent_coef_loss"
BATCH_SIZE = 256  # Stable-Baselines3's


class MultiTaskSAC(SAC):
    r"""Stable-Baselines3's SAC on several tasks: as many samples of each, a temperature a task.

    .. math:: L = \frac{1}{n} \sum_k L_k, \qquad
        L_k^\pi = \operatorname{mean}_j (\alpha_k \log \pi(a_{kj} | s_{kj}) - \min_i Q_i(s_{kj}, a_{kj}))

    and the critics' alike. A balancer chooses the direction of the shared weights from the gradients of
    :math:`L_k / n`, for the actor and for the critics on their own; heads have their plain gradients. With
    one task, shared heads and no balancer all is as in Stable-Baselines3, bit for bit.

    ``save`` and ``load`` are Stable-Baselines3's. `state_dict` has all that the model needs to go on as if
    never interrupted, its replay buffer too, as tensors and primitives; the environments, the global
    generators and the logger's averages of past episodes are left out. The logger has the losses and the
    temperature of each task, as means since it wrote last.

    Args:
        policy: as SAC's; with ``heads="multi"`` it must be ``"MlpPolicy"``.
        env: a vector environment of Gymnasium (as `MetaWorld`) or of Stable-Baselines3; each row has one
            task.
        tasks: their names, in the order of their codes; None: the rows' ``task_name``, in their order.
        task_of: the tasks of a batch of observations, ``(batch, d) -> (batch,)``; None: observations end in
            the one-hot code of the task.
        heads: ``"shared"``, one output for all tasks, or ``"multi"``, a last layer a task.
        balancer: for the actor and the critics, each its own copy; or a dictionary of ``"actor"`` and
            ``"critic"``, of which one may be left out; None: the plain mean.
        batch_size: of all tasks together, a multiple of their number; None: the least from 256 on.
        **options: SAC's, by name.

    Raises ValueError for tasks that cannot be told, heads or a batch that do not fit, and for options of SAC
    that several tasks cannot have.

    Source: Haarnoja et al. 2018, arXiv:1812.05905; several tasks Yu et al. 2019, arXiv:1910.10897, section 5.
    Departs from them: no.

    >>> from athena_multitask import MetaWorld
    >>> envs = MetaWorld("MT10", seed=0, n_goals=2)
    >>> model = MultiTaskSAC("MlpPolicy", envs, heads="multi", device="cpu", buffer_size=1000)
    >>> model.learn(120).num_timesteps, model.batch_size, len(model.temperatures)
    (120, 260, 10)
    """

    replay_buffer: Any

    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | VectorEnv[Any, Any, Any] | str | None,
        *,
        tasks: Sequence[str] | None = None,
        task_of: TaskOf | None = None,
        heads: Literal["shared", "multi"] = "shared",
        balancer: Method | Mapping[str, Method] | None = None,
        batch_size: int | None = None,
        _init_setup_model: bool = True,
        **options: Any,
    ) -> None:
        if heads not in ("shared", "multi"):
            raise ValueError(f'`heads` must be "shared" or "multi"; got {heads!r}. Take "shared".')
        self.tasks = None if tasks is None else tuple(tasks)
        self.task_of, self.heads, self.balancers = task_of, heads, _balancers(balancer)
        super().__init__(
            policy,
            env,  # pyright: ignore[reportArgumentType]
            batch_size=cast(int, batch_size),
            _init_setup_model=False,
            **options,
        )
        if _init_setup_model:
            self._setup_model()

    @property
    def n_tasks(self) -> int:
        assert self.tasks is not None
        return len(self.tasks)

    @property
    def temperatures(self) -> Tensor:
        """The entropy's weight of each task, ``(tasks,)``."""
        if self.log_ent_coef is None:
            return self.ent_coef_tensor.expand(self.n_tasks)
        return self.log_ent_coef.detach().exp()

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        made = GymnasiumVecEnv(env) if isinstance(env, VectorEnv) else env
        return BaseAlgorithm._wrap_env(made, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        self.tasks = _task_names(self.env, self.tasks)
        self.batch_size = _batch_size(self.batch_size, self.n_tasks)
        if self.task_of is None:
            self.task_of = OneHotTask(self.n_tasks)
        parts = {"n_tasks": self.n_tasks, "task_of": self.task_of}
        if self.heads == "multi":
            if not issubclass(MultiHeadSACPolicy, self.policy_class):
                raise ValueError(
                    f'`policy` must be "MlpPolicy" with heads="multi"; got {self.policy_class.__name__}. '
                    "Take that."
                )
            self.policy_class = MultiHeadSACPolicy
            self.policy_kwargs = {**self.policy_kwargs, **parts}
        if self.n_tasks > 1:
            self._refuse_options()
            self._choose_optimizer()
            self.replay_buffer_class = TaskReplayBuffer
            self.replay_buffer_kwargs = {**self.replay_buffer_kwargs, **parts}
        super()._setup_model()
        self._with_temperatures()
        self._sums, self._summed = torch.zeros(len(METRICS), self.n_tasks, device=self.device), 0

    def _refuse_options(self) -> None:
        """Raise ValueError for what SAC takes and several tasks cannot have."""
        kind = self.replay_buffer_class
        checks = {
            "n_steps": (self.n_steps == 1, "be 1", self.n_steps),
            "use_sde": (not self.use_sde, "be False", self.use_sde),
            "replay_buffer_class": (kind in (None, TaskReplayBuffer), "be left out", kind),
            "env": (self._vec_normalize_env is None, "have no VecNormalize", self.env),
        }
        for name, (fits, requirement, received) in checks.items():
            if not fits:
                raise ValueError(f"`{name}` must {requirement} with several tasks; got {received}. Do so.")

    def _choose_optimizer(self) -> None:
        """Adam with one kernel for all tensors, unless the user chose another."""
        if "optimizer_class" not in self.policy_kwargs:
            chosen = {"fused": True, **self.policy_kwargs.get("optimizer_kwargs", {})}
            self.policy_kwargs = {**self.policy_kwargs, "optimizer_kwargs": chosen}

    def _with_temperatures(self) -> None:
        """A temperature of each task in place of the one that SAC made."""
        if self.log_ent_coef is not None and self.n_tasks > 1:
            alone = self.log_ent_coef.detach()
            self.log_ent_coef = alone.repeat(self.n_tasks).requires_grad_()
            self.ent_coef_optimizer = torch.optim.Adam(
                [self.log_ent_coef], lr=self.lr_schedule(1), fused=True
            )

    def _setup_learn(self, *args: Any, **options: Any) -> tuple[int, BaseCallback]:
        total, callback = super()._setup_learn(*args, **options)
        if isinstance(self.replay_buffer, TaskReplayBuffer):
            if isinstance(self.task_of, OneHotTask):
                self.task_of.check(torch.as_tensor(self._last_obs))
            self.replay_buffer.assign_rows(cast(Any, self._last_obs))
        return total, callback

    def train(self, gradient_steps: int, batch_size: int = BATCH_SIZE) -> None:
        if self.n_tasks == 1 and not self.balancers:
            super().train(gradient_steps, batch_size)
            return
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer, self.ent_coef_optimizer]
        self._update_learning_rate([optimizer for optimizer in optimizers if optimizer is not None])
        for step in range(gradient_steps):
            self._update(self.replay_buffer.sample(batch_size, env=self._vec_normalize_env))
            if step % self.target_update_interval == 0:
                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
                polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _update(self, batch: ReplayBufferSamples) -> None:
        """One step of the temperatures, the critics and the actor, in this order as in SAC."""
        temperatures = self.temperatures
        drawn = [self.actor.action_log_prob(obs) for obs in self._pieces("actor", batch.observations)]
        log_probs = self._by_task(torch.cat([log_prob for _, log_prob in drawn]))
        temperature_loss = self._update_temperatures(log_probs)
        critic_loss = self._update_critics(batch, self._targets(batch, temperatures[:, None]))
        actor_loss = self._update_actor(batch, drawn, temperatures[:, None])
        self._sums += torch.stack((critic_loss, actor_loss, temperatures, temperature_loss))
        self._summed += 1

    def _update_critics(self, batch: ReplayBufferSamples, targets: Tensor) -> Tensor:
        parts = (batch.observations, batch.actions, targets)
        losses = [
            critic_losses([value.view_as(target) for value in self.critic(obs, actions)], target)
            for obs, actions, target in zip(*(self._pieces("critic", part) for part in parts), strict=True)
        ]
        return self._descend("critic", losses)

    def _update_actor(
        self, batch: ReplayBufferSamples, drawn: Sequence[tuple[Tensor, Tensor]], temperatures: Tensor
    ) -> Tensor:
        losses = []
        with _without_gradients(self.critic):
            pieces = (self._pieces("actor", part) for part in (batch.observations, temperatures))
            for obs, temperature, (actions, log_probs) in zip(*pieces, drawn, strict=True):
                values = torch.cat(self.critic(obs, actions), 1).amin(1).view(len(temperature), -1)
                losses.append(actor_losses(values, log_probs.view_as(values), temperatures=temperature))
            return self._descend("actor", losses)

    def _pieces(self, name: Literal["actor", "critic"], part: Tensor) -> tuple[Tensor, ...]:
        """The tasks apart where a balancer differentiates each: it then passes no samples of others."""
        return part.chunk(self.n_tasks) if name in self.balancers else (part,)

    def _by_task(self, values: Tensor) -> Tensor:
        """``(batch,)`` or ``(batch, 1)`` as ``(tasks, samples)``: batches come in the order of tasks."""
        return values.view(self.n_tasks, -1)

    def _update_temperatures(self, log_probs: Tensor) -> Tensor:
        if self.log_ent_coef is None or self.ent_coef_optimizer is None:
            return torch.zeros(self.n_tasks, device=self.device)
        assert isinstance(self.target_entropy, float)
        losses = temperature_losses(self.log_ent_coef, log_probs, target_entropy=self.target_entropy)
        self.ent_coef_optimizer.zero_grad()
        losses.sum().backward()
        self.ent_coef_optimizer.step()
        return losses.detach()

    @torch.no_grad()
    def _targets(self, batch: ReplayBufferSamples, temperatures: Tensor) -> Tensor:
        actions, log_probs = self.actor.action_log_prob(batch.next_observations)
        values = torch.cat(self.critic_target(batch.next_observations, actions), 1).amin(1)
        discounts = self.gamma if batch.discounts is None else self._by_task(batch.discounts)
        return soft_targets(
            self._by_task(batch.rewards),
            self._by_task(batch.dones),
            self._by_task(values),
            self._by_task(log_probs),
            temperatures=temperatures,
            gamma=discounts,
        )

    def _descend(self, name: Literal["actor", "critic"], losses: Sequence[Tensor]) -> Tensor:
        """A step of the actor's or the critics' optimizer, balanced if there is a balancer for it.

        Args:
            name: of the network.
            losses: of each task ``(1,)`` if there is one, else of all ``(tasks,)``.
        """
        network: nn.Module = getattr(self, name)
        optimizer: torch.optim.Optimizer = getattr(network, "optimizer")  # noqa: B009 (of no declared type)
        optimizer.zero_grad()
        if name in self.balancers:
            parts = {
                task: loss[0] / self.n_tasks for task, loss in zip(self.tasks or (), losses, strict=True)
            }
            balance(parts, shared=_shared(network, optimizer), method=self.balancers[name], group=None)
        else:
            losses[0].mean().backward()
        optimizer.step()
        return torch.cat([loss.detach() for loss in losses])

    def task_metrics(self) -> dict[str, dict[str, float]]:
        """Of each task the mean losses and temperature of the updates since the last call; none for none.

        A model with one task and without balancer leaves them to Stable-Baselines3's logger.
        """
        if not self._summed:
            return {}
        means = (self._sums / self._summed).T.tolist()
        self._sums.zero_()
        self._summed = 0
        return {
            task: dict(zip(METRICS, row, strict=True))
            for task, row in zip(self.tasks or (), means, strict=True)
        }

    def dump_logs(self) -> None:
        for task, metrics in self.task_metrics().items():
            for name, value in metrics.items():
                self.logger.record(f"{task}/{name}", value)
        super().dump_logs()

    def state_dict(self) -> dict[str, Any]:
        """All of the model that changes, as tensors and primitives.

        Raises ValueError with an ``action_noise``, whose memory has no common form.
        """
        return sac_state(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises ValueError for the state of other tasks."""
        load_sac_state(self, state)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_sums", "_summed"]


def _balancers(balancer: Method | Mapping[str, Method] | None) -> dict[str, Method]:
    if balancer is None:
        return {}
    if not isinstance(balancer, Mapping):  # two with one memory would see each other's gradients
        return {"actor": copy.deepcopy(balancer), "critic": copy.deepcopy(balancer)}
    if not set(balancer) <= {"actor", "critic"}:
        raise ValueError(
            f'`balancer` must have the keys "actor" and "critic" alone; got {sorted(balancer)}. Rename them.'
        )
    return dict(balancer)


def _task_names(env: VecEnv | None, tasks: Sequence[str] | None) -> tuple[str, ...]:
    """The names given, else those of the environment's rows."""
    if tasks is None:
        try:
            assert env is not None
            tasks = tuple(dict.fromkeys(env.get_attr("task_name")))
        except AttributeError:
            raise ValueError(
                "`tasks` must name the tasks of an environment without `task_name`; got None. Name them."
            ) from None
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"`tasks` must be different names, one at least; got {list(tasks)}. Rename them.")
    return tuple(tasks)  # a zip of Stable-Baselines3 gives a list


def _batch_size(batch_size: int | None, n_tasks: int) -> int:
    if batch_size is None:
        return -(-BATCH_SIZE // n_tasks) * n_tasks
    if batch_size < 1 or batch_size % n_tasks:
        raise ValueError(
            f"`batch_size` must be a multiple of the {n_tasks} tasks; got {batch_size}. "
            f"Take {max(1, -(-batch_size // n_tasks)) * n_tasks}."
        )
    return batch_size


@contextmanager
def _without_gradients(critic: Any) -> Iterator[None]:
    """Let gradients pass through the critics to the actions, and leave none in their weights."""
    weights = [weight for network in critic.q_networks for weight in network.parameters()]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def _shared(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What the optimizer has of the network, without heads."""
    heads = network.head_parameters() if isinstance(network, MultiHeadActor | MultiHeadCritic) else []
    own = {id(weight) for weight in heads}
    return [weight for group in optimizer.param_groups for weight in group["params"] if id(weight) not in own]

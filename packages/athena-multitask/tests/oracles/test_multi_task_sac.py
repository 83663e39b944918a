"""SAC on several tasks: Stable-Baselines3's with one, and the sum of its losses with more."""

from __future__ import annotations

import copy
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from point_tasks import point_tasks
from stable_baselines3 import SAC
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from athena_core import load_checkpoint, save_checkpoint
from athena_core.environments.sb3 import GymnasiumVecEnv
from athena_multitask import Balancer
from athena_multitask.sb3 import MultiTaskSAC, OneHotTask, TaskReplayBuffer
from athena_multitask.sb3._sac_losses import actor_losses, critic_losses, soft_targets, temperature_losses

SMALL: dict[str, Any] = {
    "device": "cpu",
    "buffer_size": 600,
    "learning_starts": 20,
    "policy_kwargs": {"net_arch": [16, 16]},
    "seed": 3,
}


class Sum(Balancer):
    """The plain sum, by way of a balancer."""

    def weights(self, gramian: Tensor) -> Tensor:
        return gramian.new_ones(len(gramian))


class Turn(Balancer):
    """One task after the other: a memory, and directions that differ from the sum."""

    turn = 0

    def __repr__(self) -> str:
        return "Turn()"  # without an address: pytest-xdist needs names of tests that are the same everywhere

    def weights(self, gramian: Tensor) -> Tensor:
        self.turn += 1
        return torch.eye(len(gramian), dtype=gramian.dtype)[self.turn % len(gramian)]

    def state_dict(self) -> dict[str, Any]:
        return {"turn": self.turn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.turn = state["turn"]


def made(*tasks: int, **options: Any) -> MultiTaskSAC:
    return MultiTaskSAC("MlpPolicy", point_tasks(*(tasks or (0, 1, 2))), **{**SMALL, **options})


def all_state(model: SAC) -> list[Tensor]:
    """Weights, optimizers' moments, temperatures and replay."""
    optimizers = (model.actor.optimizer, model.critic.optimizer, model.ent_coef_optimizer)
    moments = [v for o in optimizers if o for s in o.state_dict()["state"].values() for v in s.values()]
    buffer: Any = model.replay_buffer
    arrays = (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards, buffer.dones)
    assert model.log_ent_coef is not None
    return [*model.policy.state_dict().values(), *moments, model.log_ent_coef, *map(torch.from_numpy, arrays)]


def same(a: SAC, b: SAC) -> bool:
    return all(torch.equal(x, y) for x, y in zip(all_state(a), all_state(b), strict=True))


def seed_global(seed: int = 7) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


# One task.


@pytest.mark.parametrize(
    "options", [{}, {"n_steps": 3}, {"use_sde": True}, {"ent_coef": "auto_0.2"}], ids=str
)
def test_one_task_is_stable_baselines3_bit_for_bit(options: dict[str, Any]) -> None:
    theirs = SAC("MlpPolicy", GymnasiumVecEnv(point_tasks(0)), **SMALL, **options).learn(70)
    ours = made(0, **options).learn(70)
    assert ours.batch_size == theirs.batch_size == 256
    assert same(ours, theirs)
    obs = np.array([[0.2, 0.1, 1.0]], np.float32)
    assert np.array_equal(
        ours.predict(obs, deterministic=True)[0], theirs.predict(obs, deterministic=True)[0]
    )
    assert ours.task_metrics() == {}


def test_one_task_in_a_single_environment_without_code() -> None:
    theirs = SAC("MlpPolicy", "Pendulum-v1", **SMALL).learn(60)
    ours = MultiTaskSAC("MlpPolicy", "Pendulum-v1", tasks=["pendulum"], **SMALL).learn(60)
    assert same(ours, theirs)


def test_the_path_of_several_tasks_with_one_is_stable_baselines3_up_to_rounding() -> None:
    theirs = SAC("MlpPolicy", GymnasiumVecEnv(point_tasks(0)), **SMALL).learn(80)
    ours = made(0, balancer=Sum()).learn(80)
    for a, b in zip(all_state(ours), all_state(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)  # 60 updates apart


# Losses.


def test_losses_equal_plain_loops_in_double_precision() -> None:
    n, m = 3, 5
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, n, m, generator=generator, dtype=torch.float64)
    rewards, q1, q2, log_probs, log_next = draw(), draw(), draw(), draw(), draw()
    ends = (draw() > 0).double()
    log_alpha = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    alpha = log_alpha.exp()[:, None]
    targets = soft_targets(rewards, ends, q2, log_next, temperatures=alpha, gamma=0.9)
    critic = critic_losses([q1, q2], targets)
    actor = actor_losses(q1, log_probs, temperatures=alpha)
    temperature = temperature_losses(log_alpha, log_probs, target_entropy=-2.0)
    for k in range(n):
        target = [
            float(rewards[k, j])
            + (0.9 * float(q2[k, j] - alpha[k, 0] * log_next[k, j]) if not ends[k, j] else 0)
            for j in range(m)
        ]
        squares = [(float(q[k, j]) - target[j]) ** 2 for q in (q1, q2) for j in range(m)]
        assert float(critic[k]) == pytest.approx(0.5 * sum(squares) / m)
        assert float(actor[k]) == pytest.approx(float((alpha[k] * log_probs[k] - q1[k]).mean()))
        assert float(temperature[k]) == pytest.approx(-float(log_alpha[k] * (log_probs[k].mean() - 2)))


def test_losses_of_tasks_add_up_to_stable_baselines3s() -> None:
    models = [made(ent_coef=0.3, batch_size=30).learn(60) for _ in range(2)]
    batch = models[0].replay_buffer.sample(30)
    for model in models:
        model.replay_buffer.sample = lambda *_, **__: batch
    seed_global()
    models[0].train(1, 30)
    seed_global()
    SAC.train(models[1], 1, 30)
    for a, b in zip(*(model.policy.state_dict().values() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_each_temperature_learns_from_its_own_task() -> None:
    model = made(0, 1)
    assert model.log_ent_coef is not None
    model._update_temperatures(torch.tensor([[9.0, 9.0], [-9.0, -9.0]]))
    low_entropy, high_entropy = model.log_ent_coef.tolist()
    assert low_entropy == pytest.approx(3e-4, rel=1e-3)
    assert high_entropy == pytest.approx(-3e-4, rel=1e-3)
    assert made(ent_coef=0.2).temperatures.tolist() == pytest.approx([0.2] * 3)


def test_networks_learn_with_the_temperatures_before_their_step() -> None:
    model = made().learn(60)
    before, seen = model.temperatures.clone(), []
    targets = model._targets

    def watching(batch: Any, temperatures: Tensor) -> Tensor:
        seen.append(temperatures[:, 0].clone())
        return targets(batch, temperatures)

    model._targets = watching
    model.train(1, 258)
    assert torch.equal(seen[0], before)
    assert not torch.equal(model.temperatures, before)


def test_target_critics_follow_in_their_interval() -> None:
    model = made(target_update_interval=2, tau=1.0).learn(60)
    model.train(3, 258)  # they follow after the first and the third
    followed = zip(model.critic.parameters(), model.critic_target.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in followed)
    model.train(2, 258)  # after the first alone
    followed = zip(model.critic.parameters(), model.critic_target.parameters(), strict=True)
    assert not all(torch.equal(one, other) for one, other in followed)


def test_the_actor_s_step_leaves_no_gradient_in_the_critics() -> None:
    model = made().learn(60)
    expected = {}
    descend = model._descend

    def watching(name: Any, losses: Any) -> Tensor:
        found = descend(name, losses)
        if name == "critic":
            expected.update({w: g.grad.clone() for w, g in model.critic.named_parameters()})
        return found

    model._descend = watching
    model.train(1, 258)
    assert all(torch.equal(weight.grad, expected[name]) for name, weight in model.critic.named_parameters())
    assert all(weight.requires_grad for weight in model.critic.parameters())


# Heads.


def test_rows_are_answered_by_their_own_heads() -> None:
    model = made(heads="multi")
    with torch.no_grad():
        model.actor.mu.weight.zero_()
        model.actor.mu.bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    obs = np.concatenate([np.ones((4, 2)), np.eye(3)[[2, 0, 1, 2]]], 1).astype(np.float32)
    actions, _ = model.predict(obs, deterministic=True)
    means = np.array([[0.5, 0.6], [0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    assert np.allclose(actions, np.tanh(means), atol=1e-6)


def test_multi_head_networks_equal_networks_of_one_head() -> None:
    """Each task's outputs and its head's gradient are those of SB3's networks with this head alone."""
    model, alone = made(heads="multi"), made(0)
    obs = torch.cat([torch.randn(4, 2), torch.eye(3)[[1, 1, 1, 1]]], 1)
    actions = torch.rand(4, 2)
    alone = SAC("MlpPolicy", GymnasiumVecEnv(point_tasks(0, n_tasks=3)), **SMALL)
    for ours, theirs in zip(model.critic.q_networks, alone.critic.q_networks, strict=True):
        theirs[:-1].load_state_dict(ours[:-1].state_dict())
        theirs[-1].weight.data.copy_(ours[-1].weight[1:2])
        theirs[-1].bias.data.copy_(ours[-1].bias[1:2])
    values, expected = model.critic(obs, actions), alone.critic(obs, actions)
    torch.testing.assert_close(values, expected)
    sum(v.square().sum() for v in values).backward()
    sum(v.square().sum() for v in expected).backward()
    for ours, theirs in zip(model.critic.q_networks, alone.critic.q_networks, strict=True):
        torch.testing.assert_close(ours[-1].weight.grad[1:2], theirs[-1].weight.grad)
        assert not ours[-1].weight.grad[[0, 2]].any()
        torch.testing.assert_close(ours[0].weight.grad, theirs[0].weight.grad)


def test_tasks_told_by_a_function() -> None:
    first = lambda obs: (obs[:, 0] > 100).long()  # noqa: E731 (one line is enough)
    model = MultiTaskSAC("MlpPolicy", point_tasks(0, 0), tasks=["a"], task_of=first, **SMALL)
    assert model.learn(40).num_timesteps == 40
    two = point_tasks(0, 1, coded=False)
    by_place = lambda obs: torch.arange(len(obs), device=obs.device) % 2  # noqa: E731 (as above)
    model = MultiTaskSAC("MlpPolicy", two, task_of=by_place, **SMALL).learn(60)
    assert set(model.task_metrics()) == {"place-0", "place-1"}


# Replay.


def buffer_of(*tasks: int, n_tasks: int, size: int = 8, **options: Any) -> TaskReplayBuffer:
    """Each step of each row has its own reward: 10 times the row plus the step."""
    envs = point_tasks(*tasks, n_tasks=n_tasks, **options)
    space, count = envs.single_observation_space, len(tasks)
    buffer = TaskReplayBuffer(
        size * count,
        space,
        envs.single_action_space,
        "cpu",
        count,
        n_tasks=n_tasks,
        task_of=OneHotTask(n_tasks),
    )
    obs, _ = envs.reset(seed=0)
    for step in range(size):
        rewards = 10.0 * np.arange(count) + step
        infos = [{"TimeLimit.truncated": step == 3} for _ in tasks]
        done = np.full(count, step in (3, 5))
        buffer.add(obs, obs, np.zeros((count, 2)), rewards, done, infos)
    return buffer


def test_each_task_has_as_many_samples_in_order() -> None:
    buffer = buffer_of(2, 0, 1, 0, n_tasks=3)
    sample = buffer.sample(300)
    assert sample.observations[:, 2:].argmax(1).tolist() == [0] * 100 + [1] * 100 + [2] * 100
    assert (sample.observations[:, 2:] == sample.next_observations[:, 2:]).all()
    rows = (sample.rewards[:, 0] // 10).int()
    assert set(rows[:100].tolist()) == {1, 3}  # both rows of task 0
    assert set(rows[100:200].tolist()) == {2}
    assert set((sample.rewards[200:, 0] % 10).tolist()) == set(range(8))


def test_a_time_limit_is_no_termination_in_replay() -> None:
    sample = buffer_of(0, 1, n_tasks=2).sample(400)
    step = sample.rewards[:, 0] % 10
    assert torch.equal(sample.dones[:, 0], (step == 5).float())
    assert (step == 3).any()


def test_what_environments_cut_or_terminated_is_told_apart() -> None:
    model = made(learning_starts=10**6).learn(300)
    buffer = model.replay_buffer
    near = (
        np.linalg.norm(buffer.next_observations[..., :2] - np.array([[1, 0], [-1, 0], [0, 1]]), axis=2) < 0.4
    )
    near, cut, ended = near[: buffer.pos], buffer.timeouts[: buffer.pos] == 1, buffer.dones[: buffer.pos] == 1
    assert cut.any()
    assert (ended & ~cut).any()
    assert np.array_equal(ended & ~cut, near)


def test_double_precision_is_kept_in_single() -> None:
    buffer = buffer_of(0, 1, n_tasks=2, dtype=np.float64)
    assert buffer.observations.dtype == buffer.next_observations.dtype == buffer.actions.dtype == np.float32
    assert buffer.sample(4).observations.dtype == torch.float32


def test_rows_must_keep_their_task_and_cover_all() -> None:
    buffer = buffer_of(0, 1, n_tasks=2)
    with pytest.raises(ValueError, match=r"keep the task of each row; got \[1, 0\] after \[0, 1\]"):
        buffer.assign_rows(np.eye(2, dtype=np.float32)[::-1].copy())
    with pytest.raises(ValueError, match=r"a row of each of the 3 tasks; got tasks \[0, 1\]"):
        MultiTaskSAC("MlpPolicy", point_tasks(0, 1, n_tasks=3), tasks=["a", "b", "c"], **SMALL).learn(9)
    with pytest.raises(ValueError, match=r"end in the one-hot code of 2 tasks; got \["):
        MultiTaskSAC("MlpPolicy", point_tasks(0, 1, coded=False), **SMALL).learn(9)
    with pytest.raises(ValueError, match=r"multiple of the 2 tasks; got 5\. Take 6"):
        buffer.sample(5)


# Balancers.


def without_noise(model: MultiTaskSAC) -> None:
    """Let updates draw nothing: batches of one task have other random numbers than one of all."""

    def means(obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std, _ = model.actor.get_action_dist_params(obs)
        return mean.tanh(), (mean * log_std).sum(1)

    model.actor.action_log_prob = means


@pytest.mark.parametrize("heads", ["shared", "multi"])
def test_the_sum_as_a_balancer_changes_nothing(heads: Any) -> None:
    models = [made(heads=heads, balancer=balancer) for balancer in (None, Sum())]
    for model in models:
        without_noise(model)
        seed_global()
        model.learn(60)
    for a, b in zip(*map(all_state, models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)  # 14 updates apart
    first, second = (model.task_metrics() for model in models)
    assert first["place-1"] == pytest.approx(second["place-1"], rel=1e-3)


@pytest.mark.parametrize("heads", ["shared", "multi"])
def test_shared_weights_have_the_direction_and_heads_their_plain_gradients(heads: Any) -> None:
    models = [made(heads=heads, balancer=balancer).learn(60) for balancer in (None, Turn())]
    models[1].policy.load_state_dict(models[0].policy.state_dict())
    batch, targets = models[0].replay_buffer.sample(30), torch.zeros(3, 10)
    first = models[1].critic.q_networks[0][0].weight
    values = models[1].critic(batch.observations[20:], batch.actions[20:])
    third = critic_losses([value.view(1, 10) for value in values], targets[2:])[0]
    (expected,) = torch.autograd.grad(third / 3, first)
    models[1].balancers["critic"].turn = 1  # next comes the third task
    losses = [model._update_critics(batch, targets) for model in models]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(first.grad, expected)
    plain, balanced = (model.critic.q_networks[1][-1].weight.grad for model in models)
    assert torch.allclose(plain, balanced) == (heads == "multi")


def test_balancers_have_memories_of_their_own_or_are_given_apart() -> None:
    given = Turn()
    model = made(balancer=given).learn(30)
    actor, critic = model.balancers["actor"], model.balancers["critic"]
    assert given.turn == 0
    assert actor is not critic
    assert actor.turn == critic.turn == model._n_updates > 0
    assert set(made(balancer={"critic": Turn()}).learn(30).balancers) == {"critic"}


def test_optimizers_are_the_user_s_or_one_kernel() -> None:
    assert made().actor.optimizer.defaults["fused"]
    assert not made(0).actor.optimizer.defaults["fused"]
    own = {"net_arch": [8], "optimizer_class": torch.optim.SGD}
    assert isinstance(made(policy_kwargs=own).learn(30).critic.optimizer, torch.optim.SGD)


def test_an_aggregator_of_torchjd_balances() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    model = made(balancer=aggregation.UPGrad(), heads="multi").learn(45)
    assert all(weight.isfinite().all() for weight in model.policy.parameters())


# Keeping.


@pytest.mark.parametrize("heads", ["shared", "multi"])
def test_save_and_load(tmp_path: Path, heads: Any) -> None:
    model = made(heads=heads, balancer=Turn()).learn(60)
    model.save(tmp_path / "model.zip")
    loaded = MultiTaskSAC.load(tmp_path / "model.zip", point_tasks(0, 1, 2), device="cpu")
    assert loaded.tasks == model.tasks
    assert torch.equal(loaded.temperatures, model.temperatures)
    assert loaded.balancers["actor"].turn == model.balancers["actor"].turn
    weights = zip(model.policy.state_dict().values(), loaded.policy.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)
    obs = np.array([[0.2, 0.1, 0.0, 1.0, 0.0]], np.float32)
    alone = MultiTaskSAC.load(tmp_path / "model.zip", device="cpu")
    assert np.array_equal(
        alone.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )
    assert loaded.learn(60, reset_num_timesteps=False).num_timesteps == 120
    model.policy.save(str(tmp_path / "policy.pt"))
    policy = type(model.policy).load(str(tmp_path / "policy.pt"), device="cpu")
    assert np.array_equal(
        policy.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"heads": "multi", "balancer": Turn()},
        {"ent_coef": 0.1, "buffer_size": 60},
        {"learning_starts": 60},
    ],
    ids=str,
)
@pytest.mark.parametrize("tasks", [(0,), (0, 1, 2)], ids=len)
def test_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, options: dict[str, Any], tasks: tuple[int, ...]
) -> None:
    model = made(*tasks, **options).learn(45)
    save_checkpoint(tmp_path / "model.pt", model.state_dict())
    environments = copy.deepcopy(model.env)
    seed_global()
    model.learn(45, reset_num_timesteps=False)

    resumed = MultiTaskSAC("MlpPolicy", environments, **{**SMALL, **options, "seed": 99})
    resumed.load_state_dict(load_checkpoint(tmp_path / "model.pt"))
    seed_global()
    resumed.learn(45, reset_num_timesteps=False)
    assert resumed.num_timesteps == model.num_timesteps == 90
    assert str(resumed.state_dict()) == str(model.state_dict())
    assert resumed.task_metrics() == model.task_metrics()
    assert all(
        torch.equal(a, b)
        for a, b in zip(resumed.policy.state_dict().values(), model.policy.state_dict().values(), strict=True)
    )


def test_a_loaded_model_trains_before_it_sees_its_environment() -> None:
    model, loaded = made().learn(30), made()
    loaded.load_state_dict(model.state_dict())
    for each in (model, loaded):
        each.set_logger(model.logger)
        seed_global()
        each.train(2, batch_size=6)
    assert torch.equal(loaded.temperatures, model.temperatures)


def test_a_state_stays_as_it_was_taken_and_can_be_loaded_again() -> None:
    model = made(balancer=Turn()).learn(30)
    state = model.state_dict()
    before = copy.deepcopy(state)
    model.learn(30, reset_num_timesteps=False)
    assert str(state) == str(before)
    runs = []
    for _ in range(2):
        model.load_state_dict(state)
        seed_global()
        model.train(3, batch_size=6)
        runs.append(all_state(model))
    assert str(state) == str(before)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_states_of_others_are_refused() -> None:
    state = made().learn(30).state_dict()
    with pytest.raises(
        ValueError, match=r"of the tasks \['place-0', 'place-1'\]; got \['place-0', 'place-1', 'place-2'\]"
    ):
        made(0, 1).load_state_dict(state)
    with pytest.raises(ValueError, match="at most 2 steps of observations"):
        made(buffer_size=6).load_state_dict(state)
    noise = NormalActionNoise(np.zeros(2), np.ones(2))
    with pytest.raises(ValueError, match="`action_noise` must be None"):
        made(action_noise=noise).state_dict()


# Metrics and bad input.


def test_metrics_are_means_since_the_last_call() -> None:
    model = made().learn(60)
    first = model.task_metrics()
    assert list(first) == ["place-0", "place-1", "place-2"]
    assert set(first["place-1"]) == {"critic_loss", "actor_loss", "ent_coef", "ent_coef_loss"}
    assert first["place-1"]["critic_loss"] > 0
    assert model.task_metrics() == {}


def test_the_logger_has_the_losses_of_each_task(tmp_path: Path) -> None:
    from stable_baselines3.common.logger import configure

    model = made()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(200, log_interval=3)
    model.logger.close()
    head, *lines = (tmp_path / "progress.csv").read_text().splitlines()
    column = head.split(",").index("place-2/ent_coef")
    assert 0.9 < float(lines[-1].split(",")[column]) < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": "own"}, '`heads` must be "shared" or "multi"; got \'own\''),
        ({"batch_size": 256}, "multiple of the 3 tasks; got 256. Take 258"),
        ({"batch_size": 0}, "multiple of the 3 tasks; got 0. Take 3"),
        ({"tasks": ["a", "a", "b"]}, "different names, one at least"),
        ({"tasks": []}, "different names, one at least"),
        ({"balancer": {"actors": Turn()}}, 'keys "actor" and "critic" alone; got \\[\'actors\'\\]'),
        ({"n_steps": 3}, "`n_steps` must be 1 with several tasks; got 3"),
        ({"use_sde": True}, "`use_sde` must be False with several tasks"),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_more_bad_options() -> None:
    with pytest.raises(ValueError, match="`tasks` must name the tasks"):
        MultiTaskSAC("MlpPolicy", "Pendulum-v1", **SMALL)
    with pytest.raises(ValueError, match="`env` must have no VecNormalize"):
        MultiTaskSAC("MlpPolicy", VecNormalize(GymnasiumVecEnv(point_tasks(0, 1))), **SMALL)
    with pytest.raises(ValueError, match='`policy` must be "MlpPolicy" with heads="multi"'):
        MultiTaskSAC("CnnPolicy", point_tasks(0, 1), heads="multi", **SMALL)
    with pytest.raises(ValueError, match='`use_sde` must be False with heads="multi"'):
        made(0, heads="multi", use_sde=True)
    box = spaces.Box(-1, 1, (3,))
    with pytest.raises(ValueError, match="optimize_memory_usage"):
        TaskReplayBuffer(9, box, box, "cpu", 1, True, n_tasks=1, task_of=OneHotTask(1))

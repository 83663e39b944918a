"""What lives on a device does on CUDA what it does on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import athena_hrl.environments  # noqa: F401  # registers the environments
from athena_hrl import (
    HAC,
    HIRO,
    TD3,
    ConcatenatedValue,
    Feudal,
    Option,
    OptionCritic,
    OptionCriticDQN,
    Options,
    TD3Batch,
    TwoStreamValue,
    WorkerPath,
    corrected_subgoals,
    factorize_values,
    fit_embeddings,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
SMALL: dict[str, Any] = {"hidden": [16]}
CLOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-4}  # float32, with other orders of sums


def carts(mode: str = "NextStep") -> gym.vector.VectorEnv:
    return gym.make_vec("CartPole-v1", 3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})


def pendulums() -> gym.vector.VectorEnv:
    return gym.make_vec("Pendulum-v1", 2, max_episode_steps=12)


def maze() -> gym.Env:
    return gym.make("athena/PointMaze-v0", max_episode_steps=20)


LEARNERS: dict[str, Callable[[str], Any]] = {
    "option-critic": lambda device: OptionCritic(
        carts(), n_options=2, n_steps=8, hidden=(16,), device=device
    ),
    "option-critic, continuous": lambda device: OptionCritic.ppo(
        pendulums(), n_options=2, n_steps=8, hidden=(16,), device=device
    ),
    "option-critic, DQN": lambda device: OptionCriticDQN(
        carts(), n_options=2, hidden=(16,), learning_starts=12, target_every=4, device=device
    ),
    "option-critic, same step": lambda device: OptionCritic(
        carts("SameStep"), n_options=2, n_steps=8, hidden=(16,), device=device
    ),
    "HIRO": lambda device: HIRO(
        pendulums(),
        goal_dims=[0, 1],
        subgoal_range=1.0,
        subgoal_every=4,
        warm_up=16,
        td3=SMALL,
        device=device,
    ),
    "HAC": lambda device: HAC(maze(), horizon=4, radius=0.3, td3=SMALL, updates_per_episode=2, device=device),
    "feudal": lambda device: Feudal(carts(), horizon=3, n_steps=8, latent_dim=8, device=device),
}


def tensors_of(state: Any) -> list[Tensor]:
    """All tensors in a state, in order."""
    if isinstance(state, Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_of(part)]


def networks(learner: Any) -> list[torch.nn.Module]:
    if isinstance(learner, HIRO):
        return [learner.manager.actor, learner.worker.critic, learner.worker.target_actor]
    if isinstance(learner, HAC):
        return [level.actor for level in learner.learners]
    return [learner.network]


def predicted(learner: Any, obs: Any) -> Any:
    deterministic = isinstance(learner, OptionCritic | OptionCriticDQN)
    return learner.predict(obs, deterministic=True)[0] if deterministic else learner.predict(obs)[0]


def observations(name: str) -> Any:
    if name == "HAC":
        return maze().reset(seed=5)[0]
    return (pendulums() if name in ("HIRO", "option-critic, continuous") else carts()).reset(seed=5)[0]


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_learn_there(name: str) -> None:
    learner = LEARNERS[name](DEVICE)
    before = [parameter.clone() for one in networks(learner) for parameter in one.parameters()]
    learner.learn(60)
    after = [parameter for one in networks(learner) for parameter in one.parameters()]
    assert learner.steps >= 60
    assert all(parameter.device.type == DEVICE and parameter.isfinite().all() for parameter in after)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert np.isfinite(predicted(learner, observations(name))).all()


@pytest.mark.parametrize("name", LEARNERS)
def test_a_checkpoint_goes_from_one_device_to_the_other(name: str) -> None:
    """What was learned on the CPU acts alike on both, and goes on being learned there."""
    here, there = LEARNERS[name]("cpu"), LEARNERS[name](DEVICE)
    here.learn(60)
    there.learn(60)
    state = here.state_dict()
    if name.startswith("option-critic"):  # the place of a generator of another device means nothing
        state["generator"] = there.generator.get_state()
    there.load_state_dict(state)
    assert all(parameter.device.type == DEVICE for one in networks(there) for parameter in one.parameters())
    obs = observations(name)
    np.testing.assert_allclose(predicted(there, obs), predicted(here, obs), **CLOSE)
    before = there.steps
    there.learn(20)
    assert there.steps >= before + 20


@pytest.mark.parametrize("name", LEARNERS)
def test_the_gpu_s_global_generator_is_left_alone(name: str) -> None:
    before = torch.cuda.get_rng_state()
    LEARNERS[name](DEVICE).learn(40)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_td3_updates_alike() -> None:
    """Its noise is drawn on the CPU, so that one seed gives one course."""
    draws = torch.Generator().manual_seed(0)
    parts = [torch.randn(32, width, generator=draws) for width in (5, 2, 1, 1, 5)]
    batch = TD3Batch(parts[0], parts[1].tanh(), parts[2][:, 0], parts[3][:, 0].sigmoid(), parts[4])
    here, there = (TD3(5, 2, hidden=[16], seed=1, device=device) for device in ("cpu", DEVICE))
    for _ in range(4):
        losses, others = here.update(batch), there.update(TD3Batch(*(part.to(DEVICE) for part in batch)))
        assert others == pytest.approx(losses, rel=1e-3, abs=1e-4)
    for mine, theirs in zip(here.actor.parameters(), there.actor.parameters(), strict=True):
        torch.testing.assert_close(theirs.cpu(), mine, **CLOSE)


def test_subgoals_are_corrected_alike() -> None:
    draws = torch.Generator().manual_seed(0)
    states, actions, last = (torch.randn(4, *shape, generator=draws) for shape in ((3, 2), (3, 2), (2,)))
    subgoal, noise = torch.randn(4, 2, generator=draws), torch.randn(4, 8, 2, generator=draws)
    found = []
    for device in ("cpu", DEVICE):
        path = WorkerPath(*(part.to(device) for part in (states, actions, torch.ones(4, 3), last)))
        options = {"noise": noise.to(device), "limit": torch.ones(2, device=device), "goal_dims": [0, 1]}
        found.append(corrected_subgoals(subgoal.to(device), path, lambda _, goal: goal.tanh(), **options))
    assert found[1].device.type == DEVICE
    torch.testing.assert_close(found[1].cpu(), found[0], **CLOSE)


@pytest.mark.parametrize("make", [ConcatenatedValue, TwoStreamValue], ids=["concatenated", "two-stream"])
def test_universal_values(make: Any) -> None:
    options = {"rank": 3} if make is TwoStreamValue else {}
    value = make(4, 2, hidden=[16], n_actions=3, **options)
    state, goal = torch.randn(5, 4), torch.randn(5, 2)
    expected = value(state, goal)
    found = value.to(DEVICE)(state.to(DEVICE), goal.to(DEVICE))
    torch.testing.assert_close(found.cpu(), expected, **CLOSE)


def test_values_are_factorised_and_fitted_there() -> None:
    table = torch.outer(torch.arange(1.0, 6.0), torch.tensor([1.0, 2.0, 3.0, 4.0])).to(DEVICE)
    seen = torch.ones_like(table, dtype=torch.bool)
    seen[0, 0] = seen[4, 3] = False
    factors = factorize_values(table, 1, seen=seen)
    torch.testing.assert_close((factors.states @ factors.goals.T).float(), table, rtol=1e-2, atol=1e-2)
    value = TwoStreamValue(5, 4, rank=1, hidden=[8]).to(DEVICE)
    states, goals = torch.eye(5, device=DEVICE), torch.eye(4, device=DEVICE)
    losses = fit_embeddings(value, states, goals, factors, steps=200)
    assert max(losses.values()) < 0.05


def test_networks_as_parts_of_options() -> None:
    """Observations go to where the network is, and what it says comes back."""
    network = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Softmax(-1))
    ends = torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Sigmoid())
    obs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    uniform, option = np.linspace(0.05, 0.95, 6), np.zeros(6, dtype=np.int64)
    found = []
    for device in ("cpu", DEVICE):
        options = Options([Option(policy=network.to(device), termination=ends.to(device))], carts())
        found.append(
            [options.act(obs, option, uniform=uniform), options.terminates(obs, option, uniform=uniform)]
        )
    np.testing.assert_array_equal(found[0], found[1])


def test_samples_of_replay_buffers() -> None:
    """Stable-Baselines3's algorithms learn there from both buffers; what is stored stays in main memory."""
    stable = pytest.importorskip("stable_baselines3")
    from athena_hrl import OptionEnv, primitives
    from athena_hrl.sb3 import HindsightReplayBuffer, smdp_options

    small = {"learning_starts": 30, "buffer_size": 400, "batch_size": 16, "device": DEVICE, "seed": 0}
    cart = gym.make("CartPole-v1")
    over_options = OptionEnv(cart, primitives(cart), gamma=0.9)
    dqn = stable.DQN("MlpPolicy", over_options, **small, **smdp_options(over_options)).learn(60)
    flip = gym.make("athena/BitFlip-v0", bits=4)
    her = stable.DQN("MultiInputPolicy", flip, replay_buffer_class=HindsightReplayBuffer, **small).learn(60)
    for model in (dqn, her):
        samples = tensors_of([part for part in model.replay_buffer.sample(8) if part is not None])
        assert {sample.device.type for sample in samples} == {DEVICE}
        assert all(sample.isfinite().all() for sample in samples)
    assert dqn.replay_buffer.sample(8).discounts.unique().tolist() == pytest.approx([0.9])

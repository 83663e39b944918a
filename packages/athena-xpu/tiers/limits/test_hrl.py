"""Learners of options and goals act and learn within the limits of the A series."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import athena_hrl.environments  # noqa: F401  # registers the environments
from athena_hrl import (
    HAC,
    HIRO,
    Feudal,
    OptionCritic,
    OptionCriticDQN,
    TwoStreamValue,
    factorize_values,
    fit_embeddings,
)
from athena_xpu import ArcLimits

Device = torch.device | str
SMALL: dict[str, Any] = {"hidden": [16]}


def carts() -> gym.vector.VectorEnv:
    return gym.make_vec("CartPole-v1", 3, vectorization_mode="sync")


def wide(env: gym.vector.VectorEnv) -> gym.vector.VectorEnv:
    """The same, observed in NumPy's float64."""
    low, high = (
        np.full_like(bound, limit, np.float64)
        for bound, limit in ((env.single_observation_space.low, -10), (env.single_observation_space.high, 10))
    )
    space = gym.spaces.Box(low, high, dtype=np.float64)
    return gym.wrappers.vector.TransformObservation(env, lambda obs: obs.astype(np.float64), None, space)


def pendulums() -> gym.vector.VectorEnv:
    return gym.make_vec("Pendulum-v1", 2, max_episode_steps=12)


def hiro(env: gym.vector.VectorEnv, device: Device) -> HIRO:
    options = {"goal_dims": [0, 1], "subgoal_range": 1.0, "subgoal_every": 4, "warm_up": 16, "td3": SMALL}
    return HIRO(env, device=device, **options)


LEARNERS: dict[str, Callable[[Device], Any]] = {
    "option-critic": lambda device: OptionCritic(
        carts(), n_options=2, n_steps=8, hidden=(16,), device=device
    ),
    "option-critic, float64": lambda device: OptionCritic(
        wide(carts()), n_options=2, n_steps=8, hidden=(16,), device=device
    ),
    "option-critic, continuous": lambda device: OptionCritic.ppo(
        wide(pendulums()), n_options=2, n_steps=8, hidden=(16,), device=device
    ),
    "option-critic, DQN": lambda device: OptionCriticDQN(
        wide(carts()), n_options=2, hidden=(16,), learning_starts=12, target_every=4, device=device
    ),
    "HIRO": lambda device: hiro(pendulums(), device),
    "HIRO, float64": lambda device: hiro(wide(pendulums()), device),
    "HAC": lambda device: HAC(
        gym.make("athena/PointMaze-v0", max_episode_steps=20),
        horizon=4,
        radius=0.3,
        td3=SMALL,
        updates_per_episode=2,
        device=device,
    ),
    "feudal": lambda device: Feudal(wide(carts()), horizon=3, n_steps=8, latent_dim=8, device=device),
}


def observations(name: str) -> Any:
    if name == "HAC":
        return gym.make("athena/PointMaze-v0").reset(seed=5)[0]
    pending = name.startswith("HIRO") or "continuous" in name
    return wide(pendulums() if pending else carts()).reset(seed=5)[0]


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_play_learn_and_act(name: str) -> None:
    with ArcLimits() as limits:
        learner = LEARNERS[name](limits.device)
        learner.learn(48)
        before = limits.ops
        assert before > 500
        assert np.isfinite(learner.predict(observations(name))[0]).all()
        assert limits.ops > before
        state = learner.state_dict()
        other = LEARNERS[name](limits.device)
        other.load_state_dict(state)
        other.learn(8)


def test_values_are_factorised_on_the_host_and_fitted_there() -> None:
    table = torch.outer(torch.arange(1.0, 6.0), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    seen = torch.ones_like(table, dtype=torch.bool)
    seen[0, 0] = seen[4, 3] = False
    with ArcLimits() as limits:
        there = limits.device
        factors = factorize_values(table.to(there), 1, seen=seen.to(there))
        assert {factor.device.type for factor in factors} == {"cpu"}
        torch.testing.assert_close((factors.states @ factors.goals.T).float(), table, rtol=1e-2, atol=1e-2)
        value = TwoStreamValue(5, 4, rank=1, hidden=[8]).to(there)
        states, goals = torch.eye(5, device=there), torch.eye(4, device=there)
        assert max(fit_embeddings(value, states, goals, factors, steps=40).values()) < 5

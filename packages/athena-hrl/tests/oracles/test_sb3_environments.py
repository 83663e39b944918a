"""Stable-Baselines3 takes the environments: its checker, its replay buffer, its vector environments."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, SAC, HerReplayBuffer
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from athena_core.environments.sb3 import GymnasiumVecEnv
from athena_hrl import register_environments

CASES: list[tuple[str, dict[str, Any]]] = [
    ("athena/FourRooms-v0", {}),
    ("athena/BitFlip-v0", {"bits": 4}),
    ("athena/PointMaze-v0", {"goal": "random", "speed": 0.5}),
    ("athena/ParrRussellMaze-v0", {"intersections": 2}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_their_checker_finds_nothing(name: str, options: dict[str, Any]) -> None:
    register_environments()
    check_env(gym.make(name, render_mode="rgb_array", **options).unwrapped)


@pytest.mark.parametrize(
    ("name", "options", "algorithm"), [(*CASES[1], DQN), (*CASES[2], SAC)], ids=["bits", "maze"]
)
def test_their_hindsight_learns_the_same_from_many_at_once(
    name: str, options: dict[str, Any], algorithm: Any
) -> None:
    """With one vector environment it asks for rewards as with a loop over single ones, and gets the same."""
    register_environments()
    envs = (
        GymnasiumVecEnv(gym.make_vec(name, 3, **options)),
        DummyVecEnv([lambda: Monitor(gym.make(name, **options))] * 3),
    )
    models = []
    for env in envs:
        model = algorithm(
            "MultiInputPolicy",
            env,
            replay_buffer_class=HerReplayBuffer,
            learning_starts=900,
            buffer_size=3000,
            batch_size=16,
            seed=1,
            device="cpu",
        )
        models.append(model.learn(960))
    for one, other in zip(models[0].policy.parameters(), models[1].policy.parameters(), strict=True):
        np.testing.assert_array_equal(one.detach().numpy(), other.detach().numpy())
    buffer = models[0].replay_buffer
    assert (buffer.rewards[: buffer.pos] == models[1].replay_buffer.rewards[: buffer.pos]).all()

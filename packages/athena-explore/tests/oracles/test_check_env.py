"""Stable-Baselines3's checker finds nothing in any environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.env_checker import check_env

from athena_core import components
from athena_explore import SingleIntrinsicReward, register_environments

CASES: list[tuple[str, dict[str, Any]]] = [
    ("athena/DeepSea-v0", {}),
    ("athena/DeepSea-v0", {"size": 5, "observation": "index"}),
    ("athena/NoisyTVMaze-v0", {}),
    ("athena/SparseMountainCar-v0", {}),
]


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_environment(name: str, options: dict[str, Any], wrapped: bool) -> None:
    register_environments()
    env = gym.make(name, render_mode="rgb_array", **options)
    check_env(env if wrapped else env.unwrapped)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [component.name for component in components("bonus")])
def test_wrapper(name: str, training: bool) -> None:
    """With the bonus in the reward, and while it learns: the checker asks for no repetition."""
    register_environments()
    inside = gym.make("athena/SparseMountainCar-v0", render_mode="rgb_array")
    env = SingleIntrinsicReward(inside, name, coefficient=1.0, learn_every=2)
    env.training = training
    check_env(env)

"""Stable-Baselines3's checker finds nothing in any environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.env_checker import check_env

from athena_explore import register_environments

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

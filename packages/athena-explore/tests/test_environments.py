"""The environments by their names: registered, checked by Gymnasium, and without weight to import."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

from athena_core import AthenaError
from athena_core.environments import Dynamics, NumpyVectorEnv
from athena_core.testing import check_dynamics
from athena_explore import DeepSea, EnvPoolVectorEnv, NoisyTVMaze, SparseMountainCar, register_environments

NAMES = "athena/DeepSea-v0", "athena/NoisyTVMaze-v0", "athena/SparseMountainCar-v0"
CASES: list[tuple[str, dict[str, Any]]] = [
    ("athena/DeepSea-v0", {}),
    ("athena/DeepSea-v0", {"size": 5, "mapping_seed": 0, "observation": "index"}),
    ("athena/NoisyTVMaze-v0", {}),
    ("athena/NoisyTVMaze-v0", {"rooms": 2, "channels": None}),
    ("athena/NoisyTVMaze-v0", {"noise": False}),
    ("athena/SparseMountainCar-v0", {}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_gymnasiums_checker_finds_nothing(name: str, options: dict[str, Any]) -> None:
    register_environments()
    check_env(gym.make(name, **options).unwrapped)


@pytest.mark.parametrize(("name", "limit"), [*zip(NAMES, [None, 200, 200], strict=True)])
def test_limits_of_time_are_the_same_in_all_forms(name: str, limit: int | None) -> None:
    register_environments()
    assert gym.spec(name).max_episode_steps == limit
    vector = gym.make_vec(name, 3)
    assert isinstance(vector, NumpyVectorEnv)
    assert vector.max_episode_steps == limit
    assert gym.make_vec(name, 3, max_episode_steps=7).max_episode_steps == 7
    assert gym.make(name, max_episode_steps=7).spec.max_episode_steps == 7


def test_registering_twice_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_environments()
        register_environments()


@pytest.mark.parametrize("name", NAMES)
def test_an_id_may_name_the_module(name: str) -> None:
    code = f"import gymnasium; gymnasium.make('athena_explore.environments:{name}').reset()"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_environments_need_no_torch() -> None:
    code = (
        "import sys, athena_explore\n"
        "assert 'gymnasium' not in sys.modules\n"
        "import athena_explore.environments, gymnasium\n"
        "gymnasium.make_vec('athena/DeepSea-v0', 2).reset()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_option_is_refused() -> None:
    register_environments()
    with pytest.raises(TypeError, match="depth"):
        gym.make_vec("athena/DeepSea-v0", 2, depth=3)
    with pytest.raises(TypeError, match="depth"):
        gym.make("athena/DeepSea-v0", depth=3)


def test_without_envpool_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)  # as if it were not installed
    with pytest.raises(AthenaError, match=r"pip install 'athena-explore\[envpool\]'"):
        EnvPoolVectorEnv("CartPole-v1", 2)


@pytest.mark.parametrize(
    ("dynamics", "limit"),
    [
        (DeepSea(size=4, mapping_seed=1), None),
        (DeepSea(size=3, observation="index"), None),
        (NoisyTVMaze(rooms=2, room_size=2), 40),
        (NoisyTVMaze(rooms=2, channels=None), 15),
        (SparseMountainCar(), 23),
    ],
)
def test_many_at_once_are_a_loop_over_single_ones(dynamics: Dynamics, limit: int | None) -> None:
    check_dynamics(dynamics, max_episode_steps=limit)

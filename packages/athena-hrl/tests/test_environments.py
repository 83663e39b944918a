"""What all environments obey: many at once are a loop over single ones, names, limits of time, pictures."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from athena_core.environments import Dynamics, NumpyVectorEnv
from athena_core.testing import check_dynamics
from athena_hrl import BitFlip, FourRooms, ParrRussellMaze, PointMaze, register_environments

NAMES = {
    "athena/BitFlip-v0": None,
    "athena/FourRooms-v0": 1000,
    "athena/ParrRussellMaze-v0": 10_000,
    "athena/PointMaze-v0": 200,
}
RULES: list[tuple[Dynamics, int]] = [
    (FourRooms(), 30),
    (FourRooms(slip_to="adjacent", goal=None), 40),
    (FourRooms(slip=0, goal=(1, 1)), 15),
    (BitFlip(bits=3), 5),
    (BitFlip(bits=1), 3),
    (BitFlip(bits=60), 9),
    (PointMaze(speed=0.5, goal="random", start="random"), 20),
    (PointMaze(speed=1, reward="dense", layout="four-rooms", radius=0.5), 17),
    (PointMaze(), 11),
    (ParrRussellMaze(intersections=2), 12),
]
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES),
    ("athena/FourRooms-v0", {"goal": None, "slip_to": "adjacent"}),
    ("athena/BitFlip-v0", {"bits": 2, "time_limit": 9}),
    ("athena/PointMaze-v0", {"layout": "four-rooms", "reward": "dense", "goal": "random"}),
]


@pytest.mark.parametrize(("dynamics", "limit"), RULES, ids=lambda value: type(value).__name__)
def test_many_at_once_are_a_loop_over_single_ones(dynamics: Dynamics, limit: int) -> None:
    check_dynamics(dynamics, steps=100, max_episode_steps=limit)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_gymnasiums_checker_finds_nothing(name: str, options: dict[str, Any]) -> None:
    register_environments()
    check_env(gym.make(name, render_mode="rgb_array", **options).unwrapped)


@pytest.mark.parametrize(("name", "limit"), NAMES.items())
def test_limits_of_time_are_the_same_in_all_forms(name: str, limit: int | None) -> None:
    register_environments()
    assert gym.spec(name).max_episode_steps == limit
    vector = gym.make_vec(name, 3)
    assert isinstance(vector, NumpyVectorEnv)
    assert vector.max_episode_steps == (limit or 15)
    assert gym.make_vec(name, 3, max_episode_steps=7).max_episode_steps == 7
    env = gym.make(name, max_episode_steps=7)
    env.reset(seed=0)
    env.action_space.seed(0)
    ends = [env.step(env.action_space.sample())[3] for _ in range(7)]
    assert ends == [False] * 6 + [True]


def test_registering_twice_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_environments()
        register_environments()


def test_an_id_may_name_the_module() -> None:
    code = "import gymnasium as g; g.make('athena_hrl.environments:athena/PointMaze-v0').reset()"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_environments_need_no_torch() -> None:
    code = (
        "import sys, athena_hrl\n"
        "assert 'gymnasium' not in sys.modules\n"
        "import athena_hrl.environments, gymnasium\n"
        "[gymnasium.make_vec(name, 2).reset() for name in gymnasium.registry if name.startswith('athena/')]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused(name: str) -> None:
    register_environments()
    for make in (gym.make, gym.make_vec):
        with pytest.raises(TypeError, match="depth"):
            make(name, depth=3)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_of_each_row_and_change(name: str) -> None:
    register_environments()
    env = gym.make_vec(name, 3, render_mode="rgb_array", autoreset_mode="Disabled")
    env.reset(seed=0)
    env.action_space.seed(0)
    before = env.render()
    for _ in range(4):
        env.step(env.action_space.sample())
    after = env.render()
    assert len(before) == 3
    assert {picture.dtype for picture in before} == {np.dtype(np.uint8)}
    assert any((one != two).any() for one, two in zip(before, after, strict=True))


@pytest.mark.parametrize(("dynamics", "limit"), RULES, ids=lambda value: type(value).__name__)
def test_positions_lie_on_the_map(dynamics: Dynamics, limit: int) -> None:
    env = NumpyVectorEnv(dynamics, 4, max_episode_steps=limit)
    visits = env.visit_map()
    observation, _ = env.reset(seed=0)
    env.action_space.seed(0)
    for step in range(1, 30):
        visits.add(env.position(observation))
        assert visits.counts.sum() == visits.counts[visits.reachable].sum() == 4 * step
        observation = env.step(env.action_space.sample())[0]

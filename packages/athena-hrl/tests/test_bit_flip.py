"""Bit-flip: bits worked by hand, goals that are never the start, rewards of any goals."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from athena_core.environments import NumpyVectorEnv
from athena_hrl import BitFlip, register_environments
from athena_hrl._bit_flip import BitFlipEnv, BitFlipVectorEnv


def test_flipping_what_differs_reaches_the_goal() -> None:
    env = NumpyVectorEnv(BitFlip(bits=10), 50, autoreset_mode="SameStep")
    observation, _ = env.reset(seed=0)
    wrong = (observation["observation"] != observation["desired_goal"]).sum(1)
    left = wrong.copy()
    for step in range(10):
        differs = observation["observation"] != observation["desired_goal"]
        before = observation
        observation, reward, terminated, truncated, info = env.step(differs.argmax(1))
        left = differs.sum(1) - 1
        np.testing.assert_array_equal(terminated, left == 0)
        np.testing.assert_array_equal(reward, np.where(left == 0, 0, -1))
        for row in np.flatnonzero(terminated):
            last = info["final_obs"][row]
            assert (last["achieved_goal"] == before["desired_goal"][row]).all()
            assert last["desired_goal"].dtype == np.int8
        if step == 0:
            assert not truncated.any()


def test_starts_and_goals_are_drawn_and_differ() -> None:
    observation, _ = NumpyVectorEnv(BitFlip(bits=2), 12_000).reset(seed=0)
    start, goal = (observation[name] @ np.array([1, 2]) for name in ("observation", "desired_goal"))
    counts = np.zeros((4, 4))
    np.add.at(counts, (start, goal), 1 / 12_000)
    assert (np.diag(counts) == 0).all()
    # drawn apart 1/16; where they were the same, one of two bits of the goal is changed
    expected = np.where(np.isin(np.arange(4)[:, None] ^ np.arange(4), (1, 2)), 1 / 16 + 1 / 32, 1 / 16)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(counts, expected, atol=0.012)
    np.testing.assert_array_equal(observation["observation"], observation["achieved_goal"])


def test_one_bit_has_one_other_goal() -> None:
    env = NumpyVectorEnv(BitFlip(bits=1), 5)
    observation, _ = env.reset(seed=3)
    assert (observation["observation"] != observation["desired_goal"]).all()
    assert env.step(np.zeros(5, dtype=int))[2].all()


@pytest.mark.parametrize("env", [BitFlipEnv(bits=4), BitFlipVectorEnv(3, bits=4)], ids=["one", "many"])
def test_rewards_of_any_goals(env: Any) -> None:
    draws = np.random.default_rng(0)
    achieved, desired = draws.integers(2, size=(2, 64, 4), dtype=np.int8)
    rewards = env.compute_reward(achieved, desired, [{}] * 64)
    ends = env.compute_terminated(achieved, desired, {})
    assert rewards.dtype == np.float64
    assert ends.dtype == np.bool_
    for row in range(64):
        same = achieved[row].tolist() == desired[row].tolist()
        assert rewards[row] == env.compute_reward(achieved[row], desired[row], {}) == same - 1
        assert ends[row] == env.compute_terminated(achieved[row].tolist(), desired[row].tolist(), {}) == same
    strided = env.compute_reward(achieved[::-2, ::-1], desired[::-2, ::-1], {})
    np.testing.assert_array_equal(strided, rewards[::-2])
    assert env.compute_reward(achieved[:0], desired[:0], {}).shape == (0,)


def test_its_rewards_and_ends_are_those_of_its_goals() -> None:
    env = BitFlipVectorEnv(8, bits=3, autoreset_mode="Disabled")
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(40):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        goals = observation["achieved_goal"], observation["desired_goal"]
        np.testing.assert_array_equal(reward, env.compute_reward(*goals, {}))
        np.testing.assert_array_equal(terminated, env.compute_terminated(*goals, {}))
        if (ended := terminated | truncated).any():
            env.reset(options={"reset_mask": ended})


def test_the_limit_of_time_is_as_many_steps_as_bits() -> None:
    register_environments()
    assert BitFlip(bits=7).time_limit == 7
    assert gym.make_vec("athena/BitFlip-v0", 2, bits=7).max_episode_steps == 7
    for bits, options, limit in ((7, {}, 7), (3, {"time_limit": 11}, 11)):
        env = gym.make("athena/BitFlip-v0", bits=bits, **options)
        observation, _ = env.reset(seed=1)
        same = int(np.argmax(observation["observation"] == observation["desired_goal"]))
        ends = [env.step(same)[2:4] for _ in range(limit)]  # never there: another bit stays wrong
        assert ends == [(False, False)] * (limit - 1) + [(False, True)]


@pytest.mark.parametrize("options", [{"bits": 0}, {"time_limit": 0}])
def test_it_refuses_numbers_below_1(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"`{next(iter(options))}` must be at least 1; got 0"):
        BitFlip(**options)

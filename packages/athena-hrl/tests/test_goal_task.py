"""Functions of goals for one and for many, and where an environment has them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import hindsight_record as record
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from athena_hrl import BitFlip, GoalTask, ManyGoals, goal_function
from athena_hrl._bit_flip import BitFlipEnv, BitFlipVectorEnv


def goals(count: int) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 3, (count, 3)), rng.integers(0, 3, (count, 3)), [{}] * count


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_one_and_many_agree(count: int) -> None:
    one, many = (ManyGoals(kind, np.float32) for kind in (record.reward_of_one, record.reward_of_many))
    np.testing.assert_array_equal(one(*goals(count)), many(*goals(count)))
    assert (one.at_once, many.at_once) == ((None, None) if count < 2 else (False, True))


def test_a_function_of_all_is_asked_once_a_batch() -> None:
    calls = []

    def counted(achieved: Any, desired: Any, info: Any) -> Any:
        calls.append(len(achieved))
        return record.reward_of_many(achieved, desired, info)

    function = ManyGoals(counted, np.float32)
    for _ in range(3):
        function(*goals(50))
    assert calls == [50, *[3] * 8, 50, 50, 50]  # with the first 8 once one by one, to compare


@pytest.mark.parametrize(
    "of_one",
    [
        lambda achieved, desired, info: float(np.linalg.norm(achieved - desired)),
        lambda achieved, desired, info: -1.0 if (achieved == desired).all() else 0.0,
        lambda achieved, desired, info: abs(achieved - desired).sum(axis=0),
        lambda achieved, desired, info: False,
        lambda achieved, desired, info: info.get("x", 2.0),
    ],
)
def test_functions_of_one_are_found_out(of_one: Any) -> None:
    function = ManyGoals(of_one, np.float64)
    achieved, desired, infos = goals(3)
    expected = [of_one(*row) for row in zip(achieved, desired, infos, strict=True)]
    np.testing.assert_array_equal(function(achieved, desired, infos), np.array(expected, np.float64))
    assert function.at_once is False


def test_what_is_no_number_raises() -> None:
    with pytest.raises(ValueError, match="`<lambda>` must give one number; got array"):
        ManyGoals(lambda achieved, desired, info: achieved, np.float32)(*goals(4))
    changes = [np.zeros(4), *[0.0] * 4, np.zeros((4, 1))]
    fickle = ManyGoals(lambda achieved, desired, info: changes.pop(0), np.float32)
    with pytest.raises(ValueError, match=r"must give one number a row, \(4,\); got the shape \(4, 1\)"):
        fickle(*goals(4))


def test_an_error_of_the_environment_is_its_own() -> None:
    def broken(achieved: Any, desired: Any, info: Any) -> float:
        return info["missing"]

    with pytest.raises(KeyError, match="missing"):
        ManyGoals(broken, np.float32)(*goals(4))


class Outer(gym.Wrapper[Any, Any, Any, Any]):
    """Another reward in front of the environment's own."""

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return np.zeros(np.shape(achieved)[:-1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: BitFlipEnv(bits=3),
        lambda: gym.wrappers.TimeLimit(BitFlipEnv(bits=3), 4),
        lambda: BitFlipVectorEnv(2, bits=3),
        lambda: SyncVectorEnv([lambda: gym.wrappers.TimeLimit(BitFlipEnv(bits=3), 4)] * 2),
        lambda: gym.wrappers.vector.RecordEpisodeStatistics(BitFlipVectorEnv(2, bits=3)),
    ],
)
def test_functions_are_found_through_wrappers_and_vectors(make: Any) -> None:
    task = GoalTask.of(make())
    achieved = np.eye(3, dtype=np.int8)
    desired = achieved[[0, 2, 1]]
    np.testing.assert_array_equal(task.reward(achieved, desired, [{}] * 3), [0, -1, -1])
    assert task.terminated is not None
    np.testing.assert_array_equal(task.terminated(achieved, desired, [{}] * 3), [True, False, False])
    assert task.observation_space == BitFlip(bits=3).observation_space
    assert task.action_space == spaces.Discrete(3)


def test_the_outermost_wrapper_has_the_word() -> None:
    env = Outer(BitFlipEnv(bits=3))
    assert goal_function(env, "compute_reward") == env.compute_reward
    assert goal_function(gym.make("CartPole-v1"), "compute_terminated", required=False) is None

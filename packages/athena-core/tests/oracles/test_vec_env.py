"""Gymnasium's vector environments are to Stable-Baselines3 what its own DummyVecEnv is, step for step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeAwareObservation, TimeLimit
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from small_dynamics import Reach, Staircase
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from told_env import Told

from athena_core.environments import NumpyEnv, NumpyVectorEnv
from athena_core.environments.sb3 import GymnasiumVecEnv

MODES = list(AutoresetMode)


def same(one: Any, other: Any) -> None:
    if isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in other:
            same(one[key], other[key])
    else:
        np.testing.assert_array_equal(one, other)


def plain(info: dict[str, Any]) -> dict[str, Any]:
    """Infos without clocks, and without what is left out where it is False."""
    return {
        key: {"r": value["r"], "l": value["l"]} if key == "episode" else value
        for key, value in info.items()
        if key != "TimeLimit.truncated" or value
    }


@pytest.mark.parametrize("pairs", [False, True], ids=["vector", "dictionary"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_it_is_a_dummy_vec_env(kind: Any, mode: Any, pairs: bool) -> None:
    ours = GymnasiumVecEnv(kind([lambda: Told(pairs)] * 3, autoreset_mode=mode))
    theirs = DummyVecEnv([lambda: Monitor(Told(pairs))] * 3)
    draws, both = np.random.default_rng(0), 0
    for env in (ours, theirs):
        env.seed(7)
    same(ours.reset(), theirs.reset())
    same(ours.reset_infos[0], theirs.reset_infos[0])
    for _ in range(60):
        actions = draws.integers(2, size=3)
        (obs, reward, done, infos), (obs2, reward2, done2, infos2) = ours.step(actions), theirs.step(actions)
        same(obs, obs2)
        np.testing.assert_array_equal(reward, reward2)
        np.testing.assert_array_equal(done, done2)
        assert reward.dtype == reward2.dtype
        for row in range(3):
            found, expected = plain(infos[row]), plain(infos2[row])
            if mode is AutoresetMode.SAME_STEP and done[row]:
                found.pop("begun")  # Gymnasium has wrappers' infos and those of the reset in one place
            same(found, expected)
            assert ours.reset_infos[row]["begun"] == theirs.reset_infos[row]["begun"]
        both += sum(info.get("TimeLimit.truncated", False) for info in infos)
    assert both
    ours.close()


@pytest.mark.parametrize("mode", MODES)
def test_our_own_environments(mode: Any) -> None:
    env = GymnasiumVecEnv(NumpyVectorEnv(Staircase(4, one_hot=True), 5, autoreset_mode=mode))
    env.reset()
    for t in range(8):
        obs, _, done, infos = env.step(np.ones(5, int))
        assert done.all() == (t % 4 == 3)
        if done.all():
            assert infos[0]["terminal_observation"].argmax() == 24
            assert obs.argmax(1).tolist() == [0] * 5
            assert infos[0]["episode"]["l"] == 4
            assert infos[0]["episode"]["r"] == 1
            assert not infos[0]["TimeLimit.truncated"]


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_training_equals_that_on_a_dummy_vec_env(algorithm: Any) -> None:
    options = {"n_steps": 32} if algorithm is PPO else {"learning_starts": 50, "buffer_size": 500}
    envs = (
        GymnasiumVecEnv(gym.make_vec("CartPole-v1", 4, vectorization_mode="sync")),
        make_vec_env("CartPole-v1", 4),
    )
    models = [algorithm("MlpPolicy", env, seed=3, device="cpu", **options).learn(400) for env in envs]
    for one, other in zip(models[0].policy.parameters(), models[1].policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    episodes = [[(info["r"], info["l"]) for info in model.ep_info_buffer] for model in models]
    assert episodes[0] == episodes[1]
    assert episodes[0]


def test_with_wrappers_above_and_below() -> None:
    below = RecordEpisodeStatistics(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"))
    model = PPO("MlpPolicy", VecNormalize(GymnasiumVecEnv(below)), n_steps=32, device="cpu").learn(128)
    returns, lengths = evaluate_policy(model, GymnasiumVecEnv(below), 4, return_episode_rewards=True)
    assert returns == lengths  # CartPole gives 1 a step


def test_attributes_and_methods_of_rows() -> None:
    timed = GymnasiumVecEnv(SyncVectorEnv([lambda: TimeAwareObservation(gym.make("CartPole-v1"))] * 2))
    assert timed.env_is_wrapped(TimeAwareObservation, indices=[1]) == [True]
    env = GymnasiumVecEnv(SyncVectorEnv([Told] * 3))
    env.set_attr("factor", 2.0, indices=[0, 2])
    assert env.get_attr("factor") == [2.0, 1.0, 2.0]
    assert env.env_method("scaled", 3.0, plus=1.0) == [7.0, 4.0, 7.0]
    assert env.env_method("scaled", 3.0, indices=1) == [3.0]
    assert not env.has_attr("nonsense")
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(TimeAwareObservation) == [False] * 3
    workers = GymnasiumVecEnv(AsyncVectorEnv([Told] * 2))
    workers.set_attr("factor", 2.0)
    assert workers.get_attr("factor", indices=1) == [2.0]
    assert workers.env_method("scaled", 3.0) == [6.0, 6.0]
    with pytest.raises(ValueError, match=r"`indices` must be left out.*\[1\]"):
        workers.env_method("scaled", 3.0, indices=[1])
    workers.close()
    one = GymnasiumVecEnv(NumpyVectorEnv(Staircase(size=3), 2))
    assert one.get_attr("max_episode_steps", indices=[0]) == [one.env.max_episode_steps]
    assert one.env_is_wrapped(TimeAwareObservation) == [False] * 2
    with pytest.raises(AttributeError, match="`depth` must be of each row"):
        one.get_attr("depth")
    position = one.env_method("position", np.array([[0, 5]]), indices=[1])
    assert [part.tolist() for part in position] == [[[[0, 0], [1, 1]]]]
    with pytest.raises(AttributeError, match="`deepen` must be of each row"):
        one.env_method("deepen")


def test_off_policy_training_on_a_dictionary_and_a_box() -> None:
    """SAC learns the same from many at once as from a loop over single environments."""
    models = []
    for env in (
        GymnasiumVecEnv(NumpyVectorEnv(Reach(), 3)),
        DummyVecEnv([lambda: Monitor(TimeLimit(NumpyEnv(Reach()), 12))] * 3),
    ):
        model = SAC("MultiInputPolicy", env, seed=3, device="cpu", learning_starts=30, buffer_size=300)
        models.append(model.learn(90))
    for one, other in zip(models[0].policy.parameters(), models[1].policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_pictures() -> None:
    env = GymnasiumVecEnv(NumpyVectorEnv(Staircase(size=3), 2, render_mode="rgb_array"))
    env.reset()
    images = env.get_images()
    assert len(images) == 2
    assert env.render("rgb_array").ndim == 3
    assert GymnasiumVecEnv(NumpyVectorEnv(Staircase(size=3), 2)).get_images() == [None, None]


class Shared(VectorEnv):
    """Gives one info for all rows, and starts ended rows in the next step by itself."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    num_envs = 2
    single_observation_space = spaces.Box(-1, 1, (1,), np.float32)
    single_action_space = spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros((2, 1), np.float32), {"level": 3}

    def step(self, actions: Any) -> Any:
        no = np.zeros(2, bool)
        return np.zeros((2, 1), np.float32), np.zeros(2), no, no, {"level": 4, "each": np.array([5, 6])}


def test_what_cannot_be_served_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"start ended rows in the same step.*SAME_STEP` or DISABLED"
    ) as error:
        GymnasiumVecEnv(Shared())
    assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="must be a vector environment of Gymnasium"):
        GymnasiumVecEnv(gym.make("CartPole-v1"))  # type: ignore[arg-type]
    env = GymnasiumVecEnv(SyncVectorEnv([Told] * 2))
    env.set_options([{"a": 1}, {"a": 2}])
    with pytest.raises(ValueError, match="`options` must be the same for all rows"):
        env.reset()


def test_options_seeds_and_infos_of_all_rows() -> None:
    env = GymnasiumVecEnv(SyncVectorEnv([Told] * 2))
    env.set_options({"asked": 3})
    env.reset()
    assert [info["asked"] for info in env.reset_infos] == [3, 3]
    env.reset()
    assert "asked" not in env.reset_infos[0]
    shared = Shared()
    shared.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    env = GymnasiumVecEnv(shared)
    env.reset()
    assert env.reset_infos == [{"level": 3}] * 2
    assert env.step(np.zeros(2))[3] == [{"level": 4, "each": 5}, {"level": 4, "each": 6}]

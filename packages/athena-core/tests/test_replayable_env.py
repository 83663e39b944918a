"""Environments saved by their seed and actions: all go on bit-equal, a random one is found out."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.wrappers import TimeLimit
from small_dynamics import Noise, Staircase

from athena_core import load_checkpoint, save_checkpoint
from athena_core.environments import NumpyEnv, ReplayableEnv
from athena_core.environments._replayable_env import checksum

IDS = [
    "CartPole-v1",
    "Pendulum-v1",
    "FrozenLake-v1",  # slippery: it draws in each step
    "Blackjack-v1",  # a tuple is observed
    "noise",  # of `NumpyEnv`
]


def made(name: str, **options: Any) -> ReplayableEnv:
    env = TimeLimit(NumpyEnv(Noise()), 20) if name == "noise" else gym.make(name)
    return ReplayableEnv(env, **{"seed": 7, **options})


def play(env: ReplayableEnv, actions: list[Any]) -> list[Any]:
    """What is seen of an environment that is reset where an episode ends."""
    seen: list[Any] = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append((observation, reward, terminated, truncated))
        if terminated or truncated:
            seen.append(env.reset()[0])
    return seen


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("before", [0, 1, 37])
def test_a_restored_environment_goes_on_as_the_saved_one(tmp_path, name, before):
    env, other = made(name), made(name, seed=0)
    env.action_space.seed(1)
    actions = [env.action_space.sample() for _ in range(before + 60)]
    env.reset()
    play(env, actions[:before])
    save_checkpoint(tmp_path / "state.pt", env.state_dict())
    other.load_state_dict(load_checkpoint(tmp_path / "state.pt"))
    assert data_equivalence(play(env, actions[before:]), play(other, actions[before:]))
    assert env.state_dict()["checksum"] == other.state_dict()["checksum"]
    assert env.total == other.total
    assert checksum(env.best and env.best.actions) == checksum(other.best and other.best.actions)


def test_a_state_of_before_the_first_episode_and_of_after_the_last_step():
    env, other = made("FrozenLake-v1"), made("FrozenLake-v1", seed=0)
    other.load_state_dict(env.state_dict())
    assert other.episode == -1
    assert env.reset()[0] == other.reset()[0]
    terminated = False
    while not terminated:
        terminated = env.step(2)[2]
    other.load_state_dict(env.state_dict())
    assert data_equivalence(env.reset(), other.reset())


def test_episodes_differ_by_seed_environment_and_number():
    starts = [
        tuple(env.reset()[0].tolist())
        for env in (made("CartPole-v1", seed=seed, index=index) for seed in (0, 1) for index in (0, 1))
        for _ in range(3)
    ]
    assert len(set(starts)) == 12


def test_an_episode_is_the_same_whatever_was_before_it():
    env, other = made("FrozenLake-v1"), made("FrozenLake-v1")
    env.reset(), other.reset()
    play(env, [0, 1]), play(other, [1, 1, 2])
    env.episode = other.episode = 5
    env.reset(), other.reset()
    assert data_equivalence(play(env, [1] * 9)[:4], play(other, [1] * 9)[:4])


def test_a_given_seed_starts_over():
    env = made("CartPole-v1")
    first, second = env.reset(seed=3)[0], env.reset()[0]
    assert (env.reset(seed=3)[0] == first).all()
    assert (env.reset()[0] == second).all()
    assert (first != second).any()
    assert 0 <= env.episode_seed < 2**31


def test_it_keeps_the_best_episode_and_tells_what_ended():
    env = ReplayableEnv(NumpyEnv(Staircase(10)), seed=7)
    for actions in ([0] * 10, [1] * 10, [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]):
        env.reset()
        play_to_end = [env.step(action)[2] for action in actions]
        assert play_to_end == [False] * 9 + [True]
    ended = env.drain().ended
    assert ended == [(0, 10), (1, 10), (0, 10)]
    assert env.best is not None
    assert env.best.actions.tolist() == [1] * 10
    assert env.best.total == 1
    assert env.drain().ended == []


def test_of_equal_returns_the_shortest_is_the_best():
    class Slow(gym.Env[Any, Any]):
        """Ends with reward 1 after as many steps as the action said."""

        observation_space, action_space = gym.spaces.Discrete(9), gym.spaces.Discrete(9)

        def reset(self, **options: Any) -> tuple[int, dict[str, Any]]:
            self.left = 0
            return 0, {}

        def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
            self.left = self.left - 1 if self.left else int(action)
            done = self.left <= 1
            return self.left, float(done), done, False, {}

    env = ReplayableEnv(Slow(), seed=0)
    for length in (4, 2, 3):
        env.reset()
        while not env.step(length)[2]:
            pass
    assert env.best is not None
    assert env.best.actions.tolist() == [2, 2]


def test_marks_are_taken_after_resets_and_steps_and_not_by_a_replay():
    base = gym.make("CartPole-v1")
    env = ReplayableEnv(base, seed=0, mark=lambda: base.unwrapped.state[0])  # pyright: ignore[reportAttributeAccessIssue]
    env.reset()
    play(env, [1, 0])
    assert len(env.drain().marks) == 3
    env.load_state_dict(env.state_dict())
    assert env.drain().marks == []


def test_an_environment_that_is_not_deterministic_is_found_out():
    class Forgetful(gym.ObservationWrapper[Any, Any, Any]):
        def observation(self, observation: Any) -> Any:
            return observation + np.random.default_rng().normal(size=4).astype(np.float32)

    env = ReplayableEnv(Forgetful(gym.make("CartPole-v1")), seed=0)
    env.reset()
    env.step(1)
    with pytest.raises(ValueError, match="`env` must be deterministic given a seed and actions") as error:
        env.load_state_dict(env.state_dict())
    assert "\n" not in str(error.value)


def test_options_of_reset_are_refused():
    with pytest.raises(ValueError, match="`options` must be empty"):
        made("CartPole-v1").reset(options={"low": 0.0})


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
def test_it_passes_gymnasiums_own_check():
    check_env(ReplayableEnv(gym.make("MountainCar-v0").unwrapped, seed=0), skip_render_check=True)


def test_checksums_tell_observations_apart():
    pairs = [
        (np.zeros(3), np.array([0.0, 0.0, 1e-9])),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ((1, 2), (2, 1)),
        ("left", "right"),
        (3, 4),
    ]
    for one, other in pairs:
        assert checksum(one) == checksum(one)
        assert checksum(one) != checksum(other)

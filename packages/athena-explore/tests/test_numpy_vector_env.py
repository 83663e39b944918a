"""Many environments at once are a loop over single ones, in each of the three ways of starting again."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

import athena_explore.environments
from athena_explore import DeepSea, NoisyTVMaze, NumpyEnv, NumpyVectorEnv, SparseMountainCar

CASES = {
    "one-hot sea": ("athena/DeepSea-v0", {"size": 4, "mapping_seed": 1}),
    "index sea": ("athena/DeepSea-v0", {"size": 3, "observation": "index"}),
    "channels": ("athena/NoisyTVMaze-v0", {"rooms": 2, "room_size": 2, "max_episode_steps": 40}),
    "fresh noise": ("athena/NoisyTVMaze-v0", {"rooms": 2, "channels": None, "max_episode_steps": 15}),
    "car": ("athena/SparseMountainCar-v0", {"max_episode_steps": 23}),
}
N = 5
Step = tuple[Any, ...]


def pair(case: str, mode: AutoresetMode) -> tuple[NumpyVectorEnv, gym.vector.VectorEnv]:
    name, options = CASES[case]
    ours = gym.make_vec(name, N, autoreset_mode=mode, **options)
    assert isinstance(ours, NumpyVectorEnv)
    loop = gym.make_vec(name, N, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **options)
    return ours, loop


def assert_same(ours: Any, other: Any) -> None:
    if isinstance(ours, dict):
        assert ours.keys() == other.keys()
        for key in ours:
            assert_same(ours[key], other[key])
    elif isinstance(ours, tuple):
        for one, another in zip(ours, other, strict=True):
            assert_same(one, another)
    elif isinstance(ours, np.ndarray) and ours.dtype == object:
        for one, another in zip(ours, other, strict=True):
            assert (one is None) == (another is None)
            assert_same(one, another)
    elif ours is not None:
        assert (ours.dtype, ours.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(ours, other)


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("case", CASES)
def test_it_is_a_loop_over_single_environments(case: str, mode: AutoresetMode) -> None:
    ours, loop = pair(case, mode)
    assert ours.observation_space == loop.observation_space
    assert ours.action_space == loop.action_space
    assert ours.metadata["autoreset_mode"] is mode
    assert_same(ours.reset(seed=3), loop.reset(seed=3))
    draws, ends = np.random.default_rng(0), 0
    for _ in range(120):
        actions = draws.integers(ours.single_action_space.n, size=N)
        step = ours.step(actions)
        assert_same(step, loop.step(actions))
        assert step[0] in ours.observation_space
        ended = step[2] | step[3]
        ends += ended.sum()
        if mode is AutoresetMode.DISABLED and ended.any():
            assert_same(
                ours.reset(options={"reset_mask": ended}), loop.reset(options={"reset_mask": ended.copy()})
            )
    assert ends >= 2 * N


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
def test_rows_are_reset_alone_and_seeded_alone(mode: AutoresetMode) -> None:
    ours, loop = pair("fresh noise", mode)
    for env in (ours, loop):
        env.reset(seed=[4, 4, 1, 0, 2**70])
    actions = np.full(N, 4)
    some = np.array([True, False, False, True, False])
    for seed in (None, 8, [5, None, 6, None, 7]):
        for _ in range(4):
            assert_same(ours.step(actions), loop.step(actions))
        assert_same(
            ours.reset(seed=seed, options={"reset_mask": some}),
            loop.reset(seed=seed, options={"reset_mask": some.copy()}),
        )


def test_equal_seeds_give_equal_rows_and_others_do_not() -> None:
    env = NumpyVectorEnv(NoisyTVMaze(channels=None), 3)
    env.reset(seed=[1, 1, 2])
    first, same, other = env.step(np.full(3, 4))[0]
    assert (first == same).all()
    assert (first != other).any()


def test_without_a_seed_starts_differ_and_go_on() -> None:
    env = NumpyVectorEnv(SparseMountainCar(), 50)
    first, second = env.reset()[0], env.reset()[0]
    assert len(np.unique(np.concatenate([first, second])[:, 0])) == 100
    single = NumpyEnv(SparseMountainCar())
    assert single.reset()[0][0] != single.reset()[0][0]


def test_a_seed_starts_the_stream_again() -> None:
    for env in (NumpyVectorEnv(SparseMountainCar(), 1), NumpyEnv(SparseMountainCar())):
        first, _ = env.reset(seed=5)
        later, _ = env.reset()
        assert (later != first).any()
        assert_same(env.reset(seed=5)[0], first)
        assert_same(env.reset()[0], later)


def test_returned_arrays_are_the_users_own() -> None:
    env = NumpyVectorEnv(NoisyTVMaze(), 2, autoreset_mode="SameStep", max_episode_steps=2)
    twin = NumpyVectorEnv(NoisyTVMaze(), 2, autoreset_mode="SameStep", max_episode_steps=2)
    for each in (env, twin):
        each.reset(seed=0)
    for _ in range(6):
        observation, *rest = env.step(np.full(2, 4))
        assert_same((observation, *rest), twin.step(np.full(2, 4)))
        for array in (observation, *rest[:3]):
            array[...] = 0
        for final in rest[3].get("final_obs", ()):
            final[...] = 7


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
def test_it_goes_on_from_a_state(mode: AutoresetMode) -> None:
    env, resumed = (
        NumpyVectorEnv(NoisyTVMaze(rooms=2), 4, autoreset_mode=mode, max_episode_steps=7) for _ in range(2)
    )
    env.reset(seed=1)
    actions = np.random.default_rng(0).integers(5, size=(14, 4))
    for step in range(7):  # now all have just ended
        env.step(actions[step])
    resumed.load_state_dict(env.state_dict())
    if mode is AutoresetMode.DISABLED:
        assert_same(env.reset(), resumed.reset())
    for step in range(7, 13):
        assert_same(env.step(actions[step]), resumed.step(actions[step]))
    with pytest.raises(ValueError, match=r"`state` must be of 3 environments; got 4"):
        NumpyVectorEnv(NoisyTVMaze(rooms=2), 3).load_state_dict(env.state_dict())


def test_disabled_lets_nobody_step_on_after_an_end() -> None:
    env = NumpyVectorEnv(DeepSea(size=1), 2, autoreset_mode="Disabled")
    env.reset()
    env.step(np.array([0, 1]))
    with pytest.raises(ResetNeeded, match=r"rows \[0, 1\] have ended. Call `reset\(options="):
        env.step(np.array([0, 1]))


def test_next_step_ignores_the_action_after_an_end() -> None:
    env = NumpyVectorEnv(DeepSea(size=1), 2)
    start, _ = env.reset()
    assert env.step(np.array([0, 1]))[2].all()
    observation, reward, terminated, truncated, info = env.step(np.array([0, 1]))
    assert_same(observation, start)
    assert_same(reward, np.zeros(2))
    assert not (terminated | truncated).any()
    assert info == {}


def test_termination_and_truncation_may_come_together_and_stay_apart() -> None:
    env = NumpyVectorEnv(DeepSea(size=2), 1, max_episode_steps=2)
    env.reset()
    assert [bool(flag[0]) for flag in env.step(np.array([1]))[2:4]] == [False, False]
    assert [bool(flag[0]) for flag in env.step(np.array([1]))[2:4]] == [True, True]
    short = NumpyVectorEnv(DeepSea(size=2), 1, max_episode_steps=1)
    short.reset()
    assert [bool(flag[0]) for flag in short.step(np.array([1]))[2:4]] == [False, True]


def test_the_limit_of_time_is_that_of_the_rules() -> None:
    assert NumpyVectorEnv(SparseMountainCar()).max_episode_steps == 200
    assert NumpyVectorEnv(DeepSea()).max_episode_steps is None


def test_pictures_are_of_each_row() -> None:
    env = NumpyVectorEnv(DeepSea(size=3), 2, render_mode="rgb_array")
    env.reset()
    env.step(np.array([0, 1]))
    left, right = env.render()
    assert left.shape == (48, 48, 3)
    assert (left != right).any()
    silent = NumpyVectorEnv(DeepSea(size=3), 2)
    silent.reset()
    assert silent.render() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, r"`num_envs` must be at least 1; got 0"),
        ({"max_episode_steps": 0}, r"`max_episode_steps` must be at least 1; got 0"),
        ({"autoreset_mode": "Sometimes"}, r"`autoreset_mode` must be one of 'NextStep', .*; got 'Sometimes'"),
        ({"render_mode": "human"}, r'`render_mode` must be "rgb_array" or None; got \'human\''),
    ],
)
def test_it_refuses_what_it_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NumpyVectorEnv(DeepSea(), **{"num_envs": 2, **options})


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros(3, dtype=int), r"`actions` must have the shape \(2,\); got \(3,\)"),
        (np.zeros(2), r"actions must be whole numbers; got float64"),
        (np.array([0, 2]), r"actions must lie in Discrete\(2\); got 0 to 2"),
        (np.array([-1, 0]), r"actions must lie in Discrete\(2\); got -1 to 0"),
    ],
)
def test_it_refuses_actions(actions: Any, message: str) -> None:
    env = NumpyVectorEnv(DeepSea(), 2)
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(actions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"low": 1}}, r"`options` may hold \"reset_mask\" alone; got 'low'"),
        ({"options": {"reset_mask": [False, False]}}, r"not all False; got bool of \(2,\), 0 of them True"),
        ({"options": {"reset_mask": [1, 0]}}, r"`reset_mask` must be booleans of the shape \(2,\)"),
        ({"options": {"reset_mask": [True]}}, r"`reset_mask` must be booleans of the shape \(2,\)"),
        ({"seed": [1]}, r"`seed` must be a number or 2 of them, none below 0; got \[1\]"),
        ({"seed": [1, -1]}, r"none below 0; got \[1, -1\]"),
    ],
)
def test_it_refuses_resets(arguments: dict[str, Any], message: str) -> None:
    env = NumpyVectorEnv(DeepSea(), 2)
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.reset(**arguments)


def test_it_needs_a_reset_first() -> None:
    env = NumpyVectorEnv(DeepSea(), 2)
    with pytest.raises(ResetNeeded, match=r"there are none yet. Call `reset`"):
        env.step(np.zeros(2, dtype=int))
    with pytest.raises(ResetNeeded, match=r"there are none yet. Call `reset\(\)` first"):
        env.reset(options={"reset_mask": np.array([True, False])})


def test_a_single_one_refuses_as_well() -> None:
    env = NumpyEnv(DeepSea(size=1))
    with pytest.raises(ResetNeeded, match=r"there is none yet. Call `reset`"):
        env.step(0)
    env.reset()
    with pytest.raises(ValueError, match=r"`action` must be one number; got the shape \(1,\)"):
        env.step([0])
    with pytest.raises(ValueError, match=r"actions must lie in Discrete\(2\)"):
        env.step(2)
    env.step(np.int64(0))
    with pytest.raises(ResetNeeded, match=r"this one has terminated. Call `reset`"):
        env.step(0)
    with pytest.raises(ValueError, match=r"`options` must be empty; got 'low'"):
        env.reset(options={"low": 0})
    with pytest.raises(ValueError, match=r"`render_mode` must be"):
        NumpyEnv(DeepSea(), render_mode="ansi")


def test_positions_and_maps_are_those_of_the_rules() -> None:
    vector, single = NumpyVectorEnv(DeepSea(size=3), 2), NumpyEnv(DeepSea(size=3))
    vector.reset()
    observation = vector.step(np.array([1, 0]))[0]
    assert vector.position(observation).tolist() == [[1, 1], [1, 0]]
    assert single.position(observation[0]).tolist() == [1, 1]
    assert vector.visit_map().bins == single.visit_map().bins == (3, 3)
    assert athena_explore.environments.__name__ == "athena_explore.environments"

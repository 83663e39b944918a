"""Many environments at once are a loop over single ones, in each of the three ways of starting again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit
from small_dynamics import Noise, Reach, Staircase
from torch.utils._pytree import tree_map

from athena_core.environments import Advanced, Dynamics, NumpyEnv, NumpyVectorEnv
from athena_core.testing import check_dynamics

RULES = {
    "index": (Staircase(4), None),
    "one-hot": (Staircase(3, one_hot=True), None),
    "both ends": (Staircase(3), 3),
    "cut": (Staircase(9), 7),
    "noise": (Noise(), None),
    "noise alone": (Noise(ends=0), 11),
    "dictionary": (Reach(), None),
}


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


@pytest.mark.parametrize("case", RULES)
def test_it_is_a_loop_over_single_environments(case: str) -> None:
    dynamics, limit = RULES[case]
    check_dynamics(dynamics, max_episode_steps=limit)


class Shared(Staircase):
    """What a row is in depends on how many there are."""

    def start(self, random: Any) -> Any:
        state = super().start(random)
        return {**state, "step": np.full(len(random), len(random) > 1).astype(np.int64)}


class Beside(Staircase):
    """Observations outside of the space."""

    def observe(self, state: Any) -> Any:
        return super().observe(state) - 1


def test_rules_that_break_the_law_are_found_out() -> None:
    with pytest.raises(AssertionError, match="reset, NextStep"):
        check_dynamics(Shared(3))
    with pytest.raises(AssertionError, match=r"step 3, NextStep: .* is not in the space"):
        check_dynamics(Beside(3))


def test_equal_seeds_give_equal_rows_and_others_do_not() -> None:
    env = NumpyVectorEnv(Noise(), 3)
    env.reset(seed=[1, 1, 2])
    first, same, other = env.step(np.full(3, 4))[0]
    assert (first == same).all()
    assert (first != other).any()


def test_without_a_seed_starts_differ_and_go_on() -> None:
    env = NumpyVectorEnv(Noise(), 50)
    first, second = env.reset()[0], env.reset()[0]
    assert len(np.unique(np.concatenate([first, second])[:, 0])) == 100
    single = NumpyEnv(Noise())
    assert single.reset()[0][0] != single.reset()[0][0]


def test_a_seed_starts_the_stream_again() -> None:
    for env in (NumpyVectorEnv(Noise(), 1), NumpyEnv(Noise())):
        first, _ = env.reset(seed=5)
        later, _ = env.reset()
        assert (later != first).any()
        assert_same(env.reset(seed=5)[0], first)
        assert_same(env.reset()[0], later)


def test_returned_arrays_are_the_users_own() -> None:
    env = NumpyVectorEnv(Noise(ends=0), 2, autoreset_mode="SameStep", max_episode_steps=2)
    twin = NumpyVectorEnv(Noise(ends=0), 2, autoreset_mode="SameStep", max_episode_steps=2)
    for each in (env, twin):
        each.reset(seed=0)
    for _ in range(6):
        observation, *rest = env.step(np.full(2, 4))
        assert_same((observation, *rest), twin.step(np.full(2, 4)))
        for array in (observation, *rest[:3]):
            array[...] = 0
        for final in rest[3].get("final_obs", ()):
            final[...] = 7


def test_returned_dictionaries_are_the_users_own() -> None:
    env, twin = (NumpyVectorEnv(Reach(), 2, autoreset_mode="SameStep", max_episode_steps=2) for _ in "ab")
    for each in (env, twin):
        each.reset(seed=0)
    for _ in range(6):
        observation, *rest = env.step(np.zeros((2, 2)))
        assert_same((observation, *rest), twin.step(np.zeros((2, 2))))
        for part in filter(None, (observation, *rest[3].get("final_obs", ()))):
            part["place"][...], part["goal"][...] = 7, 7


def test_actions_of_a_box_are_clipped_to_it() -> None:
    env, twin = (NumpyVectorEnv(Reach(), 2) for _ in "ab")
    single = NumpyEnv(Reach())
    for each in (env, twin, single):
        each.reset(seed=0)
    far, edge = np.array([[5, -np.inf], [0.5, 0]]), np.array([[1, -1], [0.5, 0]], dtype=np.float32)
    after = env.step(far)[0]
    assert_same(after, twin.step(edge)[0])
    assert_same(single.step(far[0])[0]["place"], after["place"][0])


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((2, 3)), r"`actions` must have the shape \(2, 2\); got \(2, 3\)"),
        (np.array([[0, np.nan], [0, 0]]), r"actions must be numbers, none NaN; got"),
        (np.array([["a", "b"], ["c", "d"]]), r"actions must be numbers, none NaN; got"),
    ],
)
def test_it_refuses_actions_of_a_box(actions: Any, message: str) -> None:
    env = NumpyVectorEnv(Reach(), 2)
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(actions)
    single = NumpyEnv(Reach())
    single.reset()
    with pytest.raises(ValueError, match=r"`action` must have the shape \(2,\); got the shape \(3,\)"):
        single.step(np.zeros(3))


class Numbered(NumpyVectorEnv):
    """Each row begins on its own step of the staircase."""

    def start_rows(self, random: Any, rows: Any) -> Any:
        return {**super().start_rows(random, rows), "right": rows.astype(np.int64)}


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
def test_a_subclass_may_tell_rows_apart(mode: AutoresetMode) -> None:
    env = Numbered(Staircase(2), 4, autoreset_mode=mode)
    first, _ = env.reset()
    assert first.tolist() == [0, 1, 2, 3]
    for _ in range(2):
        after = env.step(np.zeros(4, dtype=np.int64))[0]
    if mode is AutoresetMode.NEXT_STEP:
        after = env.step(np.zeros(4, dtype=np.int64))[0]
    elif mode is AutoresetMode.DISABLED:
        after = env.reset(options={"reset_mask": np.ones(4, dtype=np.bool_)})[0]
    assert_same(after, first)


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
def test_it_goes_on_from_a_state(mode: AutoresetMode) -> None:
    env, resumed = (
        NumpyVectorEnv(Noise(ends=0), 4, autoreset_mode=mode, max_episode_steps=7) for _ in range(2)
    )
    env.reset(seed=1)
    actions = np.random.default_rng(0).integers(5, size=(14, 4))
    for step in range(7):  # now all have just ended
        env.step(actions[step])
    # A checkpoint makes tensors of arrays.
    resumed.load_state_dict(tree_map(torch.from_numpy, env.state_dict()))
    if mode is AutoresetMode.DISABLED:
        assert_same(env.reset(), resumed.reset())
    for step in range(7, 13):
        assert_same(env.step(actions[step]), resumed.step(actions[step]))
    with pytest.raises(ValueError, match=r"`state` must be of 3 environments; got 4"):
        NumpyVectorEnv(Noise(ends=0), 3).load_state_dict(env.state_dict())


def test_disabled_lets_nobody_step_on_after_an_end() -> None:
    env = NumpyVectorEnv(Staircase(size=1), 2, autoreset_mode="Disabled")
    env.reset()
    env.step(np.array([0, 1]))
    with pytest.raises(ResetNeeded, match=r"rows \[0, 1\] have ended. Call `reset\(options="):
        env.step(np.array([0, 1]))


def test_next_step_ignores_the_action_after_an_end() -> None:
    env = NumpyVectorEnv(Staircase(size=1), 2)
    start, _ = env.reset()
    assert env.step(np.array([0, 1]))[2].all()
    observation, reward, terminated, truncated, info = env.step(np.array([0, 1]))
    assert_same(observation, start)
    assert_same(reward, np.zeros(2))
    assert not (terminated | truncated).any()
    assert info == {}


def test_termination_and_truncation_may_come_together_and_stay_apart() -> None:
    env = NumpyVectorEnv(Staircase(size=2), 1, max_episode_steps=2)
    env.reset()
    assert [bool(flag[0]) for flag in env.step(np.array([1]))[2:4]] == [False, False]
    assert [bool(flag[0]) for flag in env.step(np.array([1]))[2:4]] == [True, True]
    short = NumpyVectorEnv(Staircase(size=2), 1, max_episode_steps=1)
    short.reset()
    assert [bool(flag[0]) for flag in short.step(np.array([1]))[2:4]] == [False, True]


def test_a_single_one_may_have_a_limit_of_its_own() -> None:
    ours, wrapped = NumpyEnv(Noise(), max_episode_steps=4), TimeLimit(NumpyEnv(Noise()), 4)
    ends = []
    for episode in range(20):
        assert_same(ours.reset(seed=episode), wrapped.reset(seed=episode))
        done = False
        while not done:
            observation, *step = ours.step(1)
            expected, *other = wrapped.step(1)
            assert_same(observation, expected)
            assert step == other
            done = step[1] or step[2]
        ends.append(tuple(step[1:3]))
    assert {(True, False), (False, True)} <= set(ends)
    with pytest.raises(ValueError, match=r"`max_episode_steps` must be at least 1; got 0"):
        NumpyEnv(Noise(), max_episode_steps=0)


def test_the_limit_of_time_is_that_of_the_rules() -> None:
    assert NumpyVectorEnv(Noise()).max_episode_steps == 20
    assert NumpyVectorEnv(Staircase()).max_episode_steps is None


def test_pictures_are_of_each_row() -> None:
    env = NumpyVectorEnv(Staircase(size=3), 2, render_mode="rgb_array")
    env.reset()
    env.step(np.array([0, 1]))
    left, right = env.render()
    assert left.shape == (16, 16, 3)
    assert (left != right).any()
    silent = NumpyVectorEnv(Staircase(size=3), 2)
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
        NumpyVectorEnv(Staircase(), **{"num_envs": 2, **options})


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
    env = NumpyVectorEnv(Staircase(), 2)
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
    env = NumpyVectorEnv(Staircase(), 2)
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.reset(**arguments)


def test_it_needs_a_reset_first() -> None:
    env = NumpyVectorEnv(Staircase(), 2)
    with pytest.raises(ResetNeeded, match=r"there are none yet. Call `reset`"):
        env.step(np.zeros(2, dtype=int))
    with pytest.raises(ResetNeeded, match=r"there are none yet. Call `reset\(\)` first"):
        env.reset(options={"reset_mask": np.array([True, False])})


def test_a_single_one_refuses_as_well() -> None:
    env = NumpyEnv(Staircase(size=1))
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
        NumpyEnv(Staircase(), render_mode="ansi")


def test_positions_and_maps_are_those_of_the_rules() -> None:
    vector, single = NumpyVectorEnv(Staircase(size=3), 2), NumpyEnv(Staircase(size=3))
    vector.reset()
    observation = vector.step(np.array([1, 0]))[0]
    assert vector.position(observation).tolist() == [[1, 1], [1, 0]]
    assert single.position(observation[0]).tolist() == [1, 1]
    assert vector.visit_map().bins == single.visit_map().bins == (4, 4)


class Bare(Dynamics):
    """Nothing but what rules must have."""

    observation_space, action_space = Staircase(1).observation_space, Staircase(1).action_space

    def start(self, random: Any) -> Any:
        return {"random": random}

    def advance(self, state: Any, action: Any) -> Advanced:
        return Advanced(state, np.zeros(len(action)), np.zeros(len(action), dtype=np.bool_))

    def observe(self, state: Any) -> Any:
        return np.zeros(len(state["random"]), dtype=np.int64)


def test_rules_need_no_pictures_and_no_map() -> None:
    env = NumpyVectorEnv(Bare(), 2, render_mode="rgb_array")
    env.reset()
    with pytest.raises(NotImplementedError, match="Bare has no pictures; leave `render_mode` out"):
        env.render()
    with pytest.raises(NotImplementedError, match="Bare has no map of visits"):
        env.visit_map()
    with pytest.raises(NotImplementedError, match="Bare has no map of visits"):
        env.position(np.zeros(2))

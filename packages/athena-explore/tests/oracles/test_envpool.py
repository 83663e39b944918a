"""EnvPool's environments are Gymnasium's: the same steps, ends, infos and seeds."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import minigrid
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from athena_explore import EnvPoolVectorEnv

CART = "CartPole-v1"
DOOR = "MiniGrid-DoorKey-8x8-v0"
N = 6


def assert_same(ours: Any, other: Any) -> None:
    if isinstance(ours, dict):
        assert ours.keys() == other.keys()
        for key in ours:
            assert_same(ours[key], other[key])
    else:
        np.testing.assert_array_equal(ours, other)


def test_the_cart_pole_is_gymnasiums() -> None:
    """Each start of EnvPool's is given to Gymnasium's loop; all that follows must be equal."""
    ours = EnvPoolVectorEnv(CART, N, seed=3, num_threads=2, max_episode_steps=25)
    loop = gym.make_vec(CART, N, vectorization_mode="sync", max_episode_steps=25)
    assert ours.metadata["autoreset_mode"] is loop.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert ours.action_space == loop.action_space
    assert ours.observation_space.shape == loop.observation_space.shape
    start, _ = ours.reset()
    loop.reset()
    for env, row in zip(loop.envs, start, strict=True):
        env.unwrapped.state = row.astype(np.float64)
    draws, ends = np.random.default_rng(0), np.zeros(2, dtype=int)
    for _ in range(150):
        actions = draws.integers(2, size=N)
        (observation, *rest), (theirs, *others) = ours.step(actions), loop.step(actions)
        restarted = np.flatnonzero(rest[0] == 0)
        for row in restarted:
            loop.envs[row].unwrapped.state = observation[row].astype(np.float64)
            theirs[row] = observation[row]
        np.testing.assert_allclose(observation, theirs, atol=1e-5)  # starts are known as float32 alone
        others[1] &= ~others[2]  # EnvPool tells one of both where a pole falls in the step of the limit
        for one, another in zip(rest[:3], others[:3], strict=True):
            assert one.dtype == another.dtype
            np.testing.assert_array_equal(one, another)
        ends += rest[1].sum(), rest[2].sum()
    assert ends.min() >= N // 2


def test_rows_have_their_own_seeds() -> None:
    first, _ = EnvPoolVectorEnv(CART, 3, seed=5).reset()
    shifted, _ = EnvPoolVectorEnv(CART, 3, seed=6).reset()
    np.testing.assert_array_equal(first[1:], shifted[:-1])
    env = EnvPoolVectorEnv(CART, 3)
    other, _ = env.reset()
    assert (other != first).all()
    np.testing.assert_array_equal(env.reset(seed=5)[0], first)
    assert (env.reset()[0] != first).all()  # it goes on
    np.testing.assert_array_equal(env.reset(seed=[7, 6, 5])[0], first[::-1])


@pytest.mark.parametrize("name", [CART, DOOR])
def test_a_partial_reset_leaves_the_other_rows(name: str) -> None:
    env, twin = (EnvPoolVectorEnv(name, 4, seed=1) for _ in range(2))
    for each in (env, twin):
        each.reset()
    actions = np.array([0, 1, 0, 1])
    before, *_ = env.step(actions)
    twin.step(actions)
    some = np.array([True, False, True, False])
    observation, info = env.reset(options={"reset_mask": some})
    assert observation in env.observation_space
    assert info["elapsed_step"].tolist() == [0, 0, 0, 0]
    assert info["_elapsed_step"].tolist() == some.tolist()
    kept, old = (part["image"] if isinstance(part, dict) else part for part in (observation, before))
    np.testing.assert_array_equal(kept[~some], old[~some])
    assert (kept[some] != old[some]).any()
    (observation, *rest), (theirs, *others) = env.step(actions), twin.step(actions)
    assert rest[3]["elapsed_step"].tolist() == [1, 2, 1, 2]
    ours, theirs = (part["image"] if isinstance(part, dict) else part for part in (observation, theirs))
    np.testing.assert_array_equal(ours[~some], theirs[~some])
    for one, another in zip(rest[:3], others[:3], strict=True):
        np.testing.assert_array_equal(one[~some], another[~some])


def test_a_partial_reset_after_an_end_takes_the_place_of_the_automatic_one() -> None:
    env = EnvPoolVectorEnv(CART, 2, max_episode_steps=2)
    env.reset()
    env.step(np.array([0, 1]))
    truncated = env.step(np.array([0, 1]))[3]
    assert truncated.all()
    env.reset(options={"reset_mask": np.array([True, False])})
    _, reward, _, _, info = env.step(np.array([0, 1]))
    assert reward.tolist() == [1, 0]
    assert info["elapsed_step"].tolist() == [1, 0]


def test_an_empty_room_is_minigrids() -> None:
    """It starts the same each time: all that is seen and paid must be equal, over ends and limits."""
    gym.register_envs(minigrid)
    ours = EnvPoolVectorEnv("MiniGrid-Empty-5x5-v0", N, num_threads=2)
    loop = gym.make_vec("MiniGrid-Empty-5x5-v0", N, vectorization_mode="sync")
    (observation, _), (theirs, _) = ours.reset(), loop.reset(seed=0)
    draws, ends = np.random.default_rng(0), np.zeros(2, dtype=int)
    for _ in range(300):
        for part in ("image", "direction"):
            np.testing.assert_array_equal(observation[part], theirs[part])
        actions = draws.choice(3, size=N, p=[0.15, 0.15, 0.7])  # left, right, forward
        actions[0] = 0  # turns round until the limit
        (observation, *rest), (theirs, *others) = ours.step(actions), loop.step(actions)
        others[1] &= ~others[2]
        for one, another in zip(rest[:3], others[:3], strict=True):
            np.testing.assert_allclose(one, another, rtol=1e-6)  # EnvPool's rewards are float32
        ends += rest[1].sum(), rest[2].sum()
    assert ends.min() >= 2


def test_the_door_is_minigrids() -> None:
    env = EnvPoolVectorEnv(DOOR, 3, seed=0, max_episode_steps=12)
    observation, info = env.reset()
    assert observation in env.observation_space
    assert {key: part.shape for key, part in observation.items()} == {
        "direction": (3,),
        "image": (3, 7, 7, 3),
        "mission": (3, 96),
    }
    gym.register_envs(minigrid)
    theirs = gym.make(DOOR).reset(seed=0)[0]
    mission = bytes(observation["mission"][0]).rstrip(b"\0").decode()
    assert mission == theirs["mission"]
    assert theirs["image"].shape == observation["image"].shape[1:]
    assert info["agent_pos"].shape == (3, 2)
    assert info["_agent_pos"].all()
    for step in range(13):
        observation, reward, terminated, truncated, info = env.step(np.full(3, 1))
        assert not reward.any()
        assert not terminated.any()
        assert (truncated == (step == 11)).all()
    assert (info["elapsed_step"] == 0).all()


@pytest.mark.parametrize("keys", ["image", ("image", "direction")])
def test_parts_of_observations(keys: Any) -> None:
    env, whole = EnvPoolVectorEnv(DOOR, 3, observation_keys=keys), EnvPoolVectorEnv(DOOR, 3)
    some = np.array([False, True, True])
    for call in (
        lambda each: each.reset(),
        lambda each: each.step(np.array([0, 1, 2])),
        lambda each: each.reset(options={"reset_mask": some}),
    ):
        ours, theirs = call(env)[0], call(whole)[0]
        assert ours in env.observation_space
        assert_same(ours, theirs[keys] if isinstance(keys, str) else {key: theirs[key] for key in keys})


def test_returned_arrays_are_not_used_again() -> None:
    env = EnvPoolVectorEnv(CART, 2, num_threads=1)
    first, _ = env.reset()
    copy = first.copy()
    for _ in range(40):
        env.step(np.array([0, 1]))
    np.testing.assert_array_equal(first, copy)


def test_a_continuous_action_goes_through() -> None:
    env = EnvPoolVectorEnv("Pendulum-v1", 2)
    env.reset()
    assert env.step(np.array([[0.5], [-0.5]], dtype=np.float32))[0] in env.observation_space
    with pytest.raises(ValueError, match=r"`actions` must have the shape \(2, 1\); got \(2,\)"):
        env.step(np.zeros(2, dtype=np.float32))


def test_pictures() -> None:
    env = EnvPoolVectorEnv(DOOR, 2, render_mode="rgb_array")
    env.reset()
    assert [picture.shape for picture in env.render()] == [(256, 256, 3)] * 2
    assert EnvPoolVectorEnv(DOOR, 2).render() is None
    env.close()
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((CART, 0), r"`num_envs` must be at least 1; got 0"),
        (("CartPole", 1), r"`id` must be one of `envpool.list_all_envs\(\)`; got 'CartPole'"),
        (
            (DOOR, 1, "picture"),
            r"parts of the observation, \['direction', 'image', .*; got \['picture'\]",
        ),
        ((CART, 1, "image"), r"parts of the observation, \[\]; got \['image'\]"),
    ],
)
def test_it_refuses(arguments: tuple[Any, ...], message: str) -> None:
    name, num_envs, *keys = arguments
    with pytest.raises(ValueError, match=message):
        EnvPoolVectorEnv(name, num_envs, observation_keys=keys[0] if keys else None)


def test_it_refuses_what_envpool_cannot() -> None:
    env = EnvPoolVectorEnv(CART, 2)
    mask = np.array([True, False])
    with pytest.raises(ValueError, match=r"`reset_mask` needs episodes under way, and no seed"):
        env.reset(options={"reset_mask": mask})
    env.reset()
    with pytest.raises(ValueError, match=r"EnvPool seeds all rows or none"):
        env.reset(seed=1, options={"reset_mask": mask})
    with pytest.raises(ValueError, match=r"`seed` must be a number or 2 of them; got \[1\]"):
        env.reset(seed=[1])
    with pytest.raises(ValueError, match=r"actions must lie in Discrete\(2\); got 0 to 2"):
        env.step(np.array([0, 2]))
    with pytest.raises(ValueError, match=r"`options` may hold \"reset_mask\" alone; got 'low'"):
        env.reset(options={"low": 0})

"""The sparse mountain car is Gymnasium's, to the bit, but for its reward."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from athena_core.environments import NumpyEnv, NumpyVectorEnv
from athena_explore import SparseMountainCar


def test_it_is_gymnasiums_to_the_bit() -> None:
    """From the same states with the same actions, over 200 steps of ten cars, some of which swing up."""
    env, other = NumpyVectorEnv(SparseMountainCar(), 10), gym.make("MountainCar-v0").unwrapped
    env.reset(seed=0)
    starts = env.state_dict()["state"]
    draws = np.random.default_rng(0)
    actions = draws.integers(3, size=(200, 10))
    swing = draws.random((200, 10)) < np.linspace(0, 1, 10)  # how often a car pushes the way it rolls
    reached = 0
    for row in range(10):
        other.reset(seed=0)
        other.state = np.array([starts["place"][row], starts["speed"][row]])
        single = NumpyVectorEnv(SparseMountainCar(), 10, autoreset_mode="Disabled")
        single.reset()
        single.load_state_dict({**single.state_dict(), "state": starts})
        for step in range(200):
            action = int(2 * (other.state[1] >= 0)) if swing[step, row] else int(actions[step, row])
            theirs, _, at_goal, _, _ = other.step(action)
            observation, reward, terminated, _, _ = single.step(np.full(10, action))
            np.testing.assert_array_equal(observation[row], theirs)
            state = single.state_dict()["state"]
            assert (state["place"][row], state["speed"][row]) == tuple(other.state)
            assert terminated[row] == at_goal == reward[row]
            if at_goal:
                reached += 1
                break
            if terminated.any():  # cars beside it, whose starts differ
                single.reset(options={"reset_mask": terminated})
    assert reached >= 3


def test_a_step_by_hand() -> None:
    """From -0.5 at rest, to the right: v = 0.001 - 0.0025 cos(-1.5) = 0.00082316, x = -0.49917684."""
    env = NumpyVectorEnv(SparseMountainCar())
    env.reset()
    state = env.state_dict()
    state["state"]["place"][0] = -0.5
    env.load_state_dict(state)
    observation, reward, terminated, truncated, _ = env.step(np.array([2]))
    np.testing.assert_allclose(observation, [[-0.49917684, 0.00082316]], atol=1e-8)
    assert (reward[0], terminated[0], truncated[0]) == (0, False, False)


def test_starts_are_spread_over_the_valley() -> None:
    observation, _ = NumpyVectorEnv(SparseMountainCar(), 4000).reset(seed=0)
    counts, _ = np.histogram(observation[:, 0], bins=10, range=(-0.6, -0.4))
    assert counts.sum() == 4000
    assert (abs(counts - 400) < 5 * 400**0.5).all()
    assert (observation[:, 1] == 0).all()


def test_the_wall_takes_the_speed() -> None:
    env = NumpyVectorEnv(SparseMountainCar())
    env.reset()
    state = env.state_dict()
    state["state"]["place"][0], state["state"]["speed"][0] = -1.19, -0.07
    env.load_state_dict(state)
    assert env.step(np.array([0]))[0].tolist() == [[np.float32(-1.2), 0]]


def test_the_goal_pays_once_and_ends() -> None:
    env = NumpyEnv(SparseMountainCar())
    observation, _ = env.reset(seed=1)
    total = 0.0
    for _ in range(200):
        observation, reward, terminated, _, _ = env.step(2 * int(observation[1] >= 0))
        total += reward
        if terminated:
            break
    assert terminated
    assert total == reward == 1
    assert observation[0] >= 0.5


def test_the_map_is_of_position_and_speed() -> None:
    env = NumpyVectorEnv(SparseMountainCar(), 100)
    visits = env.visit_map()
    observation, _ = env.reset(seed=0)
    visits.add(env.position(observation))
    assert visits.bins == (32, 32)
    assert visits.counts.sum() == 100
    assert (visits.counts.sum(0) > 0).sum() == 1  # of one speed
    assert observation.dtype == np.float32


def test_the_car_is_in_the_picture_wherever_it_is() -> None:
    env = NumpyVectorEnv(SparseMountainCar(), 3, render_mode="rgb_array")
    env.reset(seed=0)
    state = env.state_dict()
    state["state"]["place"][:] = -1.2, 0, 0.6
    env.load_state_dict(state)
    columns = [np.flatnonzero((picture == (200, 40, 40)).all(-1).any(0)).mean() for picture in env.render()]
    assert columns == sorted(columns)
    assert columns[0] < 10
    assert columns[2] > 140

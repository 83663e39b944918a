"""The point maze: walls against a slow reference, goals, rewards, and what is hard in it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athena_core.environments import NumpyVectorEnv
from athena_hrl import PointMaze
from athena_hrl._point_maze import LAYOUTS, PointMazeEnv, PointMazeVectorEnv

SKIN = 1e-3


def moved(lines: Any, point: list[float], action: list[float], speed: float) -> list[float]:
    """One step of one point, cell by cell, in float64."""
    point = list(point)
    for axis in (0, 1):
        by = speed * action[axis]
        cell = [math.floor(one) for one in point]
        cell[axis] += (by > 0) - (by < 0)
        there = point[axis] + by
        if lines[cell[1]][cell[0]] == "#":
            if by > 0:
                there = min(there, max(cell[axis] - SKIN, point[axis]))
            else:
                there = max(there, min(cell[axis] + 1 + SKIN, point[axis]))
        point[axis] = there
    return point


@settings(max_examples=20)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    speed=st.sampled_from([0.03, 0.1, 0.7, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_walls_are_those_of_a_slow_reference(layout: str, speed: float, seed: int) -> None:
    maze = PointMaze(layout=layout, speed=speed, start="random")
    env = NumpyVectorEnv(maze, 16, max_episode_steps=10_000, autoreset_mode="Disabled")
    here = env.reset(seed=seed)[0]["observation"]
    draws = np.random.default_rng(seed)
    steps = draws.choice([-1, -0.3, 0, 0.5, 1], size=(30, 16, 2))
    for action in steps:
        observation, _, terminated, *_ = env.step(action)
        after = observation["observation"]
        expected = [
            moved(LAYOUTS[layout], row, one, speed)
            for row, one in zip(here.tolist(), action.tolist(), strict=True)
        ]
        np.testing.assert_allclose(after, expected, atol=1e-5)
        column, row = after.astype(int).T
        assert maze.free[row, column].all()
        here = after
        if terminated.any():
            here = env.reset(options={"reset_mask": terminated})[0]["observation"]


def test_nothing_gets_through_a_corner_or_a_wall() -> None:
    lines = "####", "#S##", "##G#", "####"
    maze = PointMaze(layout=lines, speed=1, radius=0.1)
    env = NumpyVectorEnv(maze, 500)
    env.reset(seed=0)
    draws = np.random.default_rng(0)
    for _ in range(100):
        point = env.step(draws.uniform(-1, 1, (500, 2)))[0]["observation"]
        assert (point > 1).all()
        assert (point < 2).all()


@pytest.mark.parametrize(("place", "way"), [(1.9999, 1), (1.0001, -1)])
def test_a_point_that_is_closer_to_a_wall_is_not_pushed_back(place: float, way: int) -> None:
    maze = PointMaze(layout=("###", "#S#", "#G#", "###"))
    point = np.array([[place, 1.5]], dtype=np.float32)
    state = maze.start(np.zeros(1, dtype=np.uint64)) | {"point": point}
    assert (
        maze.advance(state, np.array([[way, 0]], dtype=np.float32)).state["point"].tolist() == point.tolist()
    )


def test_a_whole_cell_does_not_round_into_a_wall() -> None:
    maze = PointMaze(layout=("#####", "#S ##", "#G###", "#####"), speed=1)
    edge = np.nextafter(np.float32(2), np.float32(0))
    state = maze.start(np.zeros(1, dtype=np.uint64)) | {"point": np.array([[edge, 1.5]], dtype=np.float32)}
    for _ in range(3):
        state = maze.advance(state, np.array([[1.0, 0.0]], dtype=np.float32)).state
        assert edge < state["point"][0, 0] < 3


def test_the_straight_way_to_the_far_goal_ends_at_a_wall() -> None:
    """And going by the middles of the cells arrives: six cells, 0.1 a step, all but the radius."""
    env = PointMazeEnv()
    observation, _ = env.reset(seed=0)
    for _ in range(200):
        way = observation["desired_goal"] - observation["achieved_goal"]
        observation, _, terminated, *_ = env.step(10 * way)
        assert not terminated
    np.testing.assert_allclose(observation["achieved_goal"], [1.5, 2], atol=2e-3)
    env.reset(seed=0)
    steps = 0
    for target in ([3.5, 1.5], [3.5, 3.5], [1.5, 3.5]):
        while not terminated and np.abs(target - observation["achieved_goal"]).max() > 1e-4:
            observation, reward, terminated, *_ = env.step((target - observation["achieved_goal"]) * 10)
            steps += 1
        if not terminated and target == [3.5, 1.5]:
            assert reward == -1
    assert terminated
    assert reward == 0
    assert steps >= 57


def test_far_goals_and_random_ones() -> None:
    fixed = NumpyVectorEnv(PointMaze(), 3).reset(seed=0)[0]
    assert fixed["observation"].tolist() == [[1.5, 1.5]] * 3
    assert fixed["desired_goal"].tolist() == [[1.5, 3.5]] * 3
    maze = PointMaze(goal="random", start="random", radius=0.5)
    drawn = NumpyVectorEnv(maze, 14_000).reset(seed=0)[0]
    for name in ("observation", "desired_goal"):
        column, row = drawn[name].astype(int).T
        counts = np.zeros(maze.free.shape)
        np.add.at(counts, (row, column), 1)
        assert (counts[~maze.free] == 0).all()
        assert (abs(counts[maze.free] - 2000) < 200).all()
        inside = drawn[name] % 1
        assert abs(inside.mean() - 0.5) < 0.01
        assert abs(inside.std() - 12**-0.5) < 0.01
    assert np.linalg.norm(drawn["observation"] - drawn["desired_goal"], axis=1).min() > 0.5
    far = NumpyVectorEnv(PointMaze(start="random"), 5000).reset(seed=0)[0]
    assert far["desired_goal"].tolist() == [[1.5, 3.5]] * 5000
    assert np.linalg.norm(far["observation"] - far["desired_goal"], axis=1).min() > 0.3


@pytest.mark.parametrize("reward", ["sparse", "dense"])
def test_rewards_of_any_goals(reward: Any) -> None:
    options = {"reward": reward, "goal": "random", "start": "random"}
    one, many = PointMazeEnv(**options), PointMazeVectorEnv(4, **options, autoreset_mode="Disabled")
    draws = np.random.default_rng(0)
    achieved, desired = draws.uniform(0, 1, size=(2, 40, 2)).astype(np.float32)
    rewards, ends = (f(achieved, desired, {}) for f in (many.compute_reward, many.compute_terminated))
    assert (rewards.dtype, ends.dtype) == (np.float64, np.bool_)
    assert 0 < ends.sum() < 40
    for row in range(40):
        far = math.dist(achieved[row], desired[row])
        expected = -far if reward == "dense" else -float(far > 0.3)
        assert rewards[row] == one.compute_reward(achieved[row], desired[row], {})
        assert rewards[row] == pytest.approx(expected, abs=1e-6)
        assert ends[row] == one.compute_terminated(achieved[row], desired[row], {}) == (far <= 0.3)
    many.reset(seed=0)
    many.action_space.seed(0)
    ends = 0
    for _ in range(300):
        observation, reward_t, terminated, truncated, _ = many.step(many.action_space.sample())
        goals = observation["achieved_goal"], observation["desired_goal"]
        np.testing.assert_array_equal(terminated, many.compute_terminated(*goals, {}))
        np.testing.assert_array_equal(reward_t, many.compute_reward(*goals, {}))
        ends += terminated.sum()
        if (ended := terminated | truncated).any():
            many.reset(options={"reset_mask": ended})
    assert ends
    assert one.compute_reward(achieved[:0], desired[:0], {}).shape == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": "none"}, r'`reward` must be "sparse" or "dense"; got \'none\''),
        ({"goal": "near"}, r'`goal` must be "far" or "random"; got \'near\''),
        ({"start": "far"}, r'`start` must be "fixed" or "random"; got \'far\''),
        ({"speed": 1.1}, r"`speed` must lie in \(0, 1\], or steps jump over walls; got 1.1"),
        ({"speed": 0}, r"`speed` must lie in \(0, 1\]"),
        ({"radius": 0}, r"`radius` must lie in \(0, 0.5\], half a cell; got 0"),
        ({"radius": float("nan")}, r"`radius` must lie in \(0, 0.5\]"),
        ({"layout": "w"}, r"`layout` must be one of u, four-rooms, or lines; got 'w'"),
        ({"layout": []}, r"`layout` must have lines of one length; got \[\]"),
        ({"layout": ["####", "#SG#", "###"]}, r"`layout` must have lines of one length; got \[4, 4, 3\]"),
        ({"layout": ["####", "#SG ", "####"]}, r"`layout` must have walls '#' all around; got an open edge"),
        (
            {"layout": ["#####", "#SGx#", "#####"]},
            r"`layout` must be made of '#', ' ', 'S', 'G'; got \['x'\]",
        ),
        ({"layout": ["####", "#S #", "####"]}, r"`layout` must have one 'G'; got 0"),
        ({"layout": ["#####", "#SSG#", "#####"]}, r"`layout` must have one 'S'; got 2"),
    ],
)
def test_it_refuses_what_it_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        PointMaze(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("action", [np.zeros(3), [np.nan, 0], "ab"])
def test_it_refuses_actions(action: Any) -> None:
    env = PointMazeEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(action)

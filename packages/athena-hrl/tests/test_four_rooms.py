"""Four rooms: the map, both ways to slip, a goal that moves, and the exact model."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch.utils._pytree import tree_map

from athena_core.environments import NumpyVectorEnv
from athena_hrl import FourRooms, register_environments, value_iteration
from athena_hrl._four_rooms import FourRoomsEnv, FourRoomsVectorEnv

SLIPS = [("others", 1 / 3), ("adjacent", 1 / 3), ("others", 1.0), ("adjacent", 0.0)]


def test_the_map_is_that_of_the_paper() -> None:
    rooms = FourRooms()
    assert rooms.observation_space == gym.spaces.Discrete(104)
    assert rooms.cells.shape == (104, 2)
    assert rooms.hallways == (25, 62, 88, 51)
    assert np.unique(rooms.rooms, return_counts=True)[1].tolist() == [4, 25, 30, 20, 25]
    for room in range(4):
        inside = rooms.rooms == room
        edges = np.unique(rooms.next_state[inside])
        assert sorted(set(edges[rooms.rooms[edges] != room])) == sorted(
            {rooms.hallways[room - 1], rooms.hallways[room]}
        )
    assert rooms.next_state[0].tolist() == [0, 10, 0, 1]  # up, down, left, right of the corner
    assert rooms.next_state[25].tolist() == [25, 25, 24, 26]  # walls above and below the hallway


def test_shortest_ways() -> None:
    rooms = FourRooms()
    for target in (0, 62, 103):
        way, state, steps = rooms.way_to(target), np.arange(104), np.zeros(104, dtype=int)
        for _ in range(40):
            steps += state != target
            state = np.where(state == target, state, rooms.next_state[state, way[state]])
        assert (state == target).all()
        values = value_iteration(*FourRooms(slip=0, goal=target).model()[:2], gamma=0.9).max(1)
        others = np.arange(104) != target
        np.testing.assert_allclose(values[others], 0.9 ** (steps[others] - 1), atol=1e-10)


@pytest.mark.parametrize(("slip_to", "slip"), SLIPS)
def test_the_model_is_what_steps_do(slip_to: Any, slip: float) -> None:
    rooms = FourRooms(slip=slip, slip_to=slip_to)
    model = rooms.model()
    whole = model.transition.copy()
    whole[:, :, rooms.goal] = model.reward
    np.testing.assert_allclose(whole.sum(2), 1, atol=1e-15)
    n = 104 * 4 * 250
    state, action = np.tile(np.arange(104), n // 104), np.repeat(np.arange(4), n // 4)
    start = rooms.start(np.arange(n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    after, reward, terminated = rooms.advance({**start, "cell": state}, action)
    counts = np.zeros_like(whole)
    np.add.at(counts, (state, action, after["cell"]), 1 / 250)
    assert (counts[whole == 0] == 0).all()
    deviation = np.sqrt(whole * (1 - whole) / 250)
    assert (np.abs(counts - whole) <= 5.5 * deviation + 1e-12).all()
    np.testing.assert_array_equal(reward, after["cell"] == rooms.goal)
    np.testing.assert_array_equal(terminated, after["cell"] == rooms.goal)


def test_slips_worked_by_hand() -> None:
    """In the upper left corner, going right: by the 1999 paper, and by that of option-critic."""
    others, adjacent = (FourRooms(slip_to=to).model().transition[0, 3] for to in ("others", "adjacent"))
    assert {state: round(others[state], 12) for state in np.flatnonzero(others).tolist()} == {
        0: round(2 / 9, 12),  # up and left are walls
        1: round(2 / 3, 12),
        10: round(1 / 9, 12),
    }
    assert {state: round(adjacent[state], 12) for state in np.flatnonzero(adjacent).tolist()} == {
        1: round(2 / 3 + 1 / 6, 12),
        10: round(1 / 6, 12),
    }
    blocked = FourRooms(slip_to="adjacent").model().transition[0, 0]  # going up stays with 2/3
    assert np.flatnonzero(blocked).tolist() == [0, 1, 10]


def test_starts_are_uniform_and_not_the_goal() -> None:
    for goal in (0, 62, 103):
        rooms = FourRooms(goal=goal)
        first = NumpyVectorEnv(rooms, 20_600).reset(seed=0)[0]
        counts = np.bincount(first, minlength=104)
        assert counts[goal] == 0
        assert abs(counts[np.arange(104) != goal] - 200).max() < 5 * np.sqrt(200)
        np.testing.assert_allclose(rooms.model().start, (counts > 0) / 103)


def test_a_goal_is_drawn_for_each_episode() -> None:
    env = FourRoomsVectorEnv(4000, goal=None, max_episode_steps=1, autoreset_mode="SameStep")
    first, _ = env.reset(seed=0)
    before = env.goals
    assert (first != before).all()
    assert len(np.unique(before)) == 104
    env.step(np.zeros(4000, dtype=int))
    assert (env.goals != before).mean() > 0.9


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
def test_a_goal_for_each_row(mode: AutoresetMode) -> None:
    goals = [62, (1, 1), 80, 79]
    ours = FourRoomsVectorEnv(4, goals=goals, slip=0, max_episode_steps=25, autoreset_mode=mode)
    loop = SyncVectorEnv(
        [lambda goal=goal: gym.wrappers.TimeLimit(FourRoomsEnv(goal=goal, slip=0), 25) for goal in goals],
        autoreset_mode=mode,
    )
    np.testing.assert_array_equal(ours.reset(seed=1)[0], loop.reset(seed=1)[0])
    ours.action_space.seed(0)
    for step in range(150):
        if step == 70:
            ours.set_goal([5, 6], rows=[1, 3])
            ours.set_goal((9, 9), rows=np.array([True, False, False, False]))
            for row, goal in ((0, (9, 9)), (1, 5), (3, 6)):
                loop.envs[row].unwrapped.set_goal(goal)
        actions = ours.action_space.sample()
        both = ours.step(actions), loop.step(actions)
        for one, other in zip(both[0][:4], both[1][:4], strict=True):
            np.testing.assert_array_equal(one, other)
        ended = both[0][2] | both[0][3]
        if mode is AutoresetMode.DISABLED and ended.any():
            ours.reset(options={"reset_mask": ended})
            loop.reset(options={"reset_mask": ended.copy()})
    assert ours.goals.tolist() == [80, 5, 80, 6]


def test_a_moved_goal_holds_at_once_and_in_later_episodes() -> None:
    env = FourRoomsVectorEnv(2, slip=0)
    with pytest.raises(gym.error.ResetNeeded):
        _ = env.goals
    env.set_goal(5)
    first, _ = env.reset(seed=0)
    assert env.goals.tolist() == [5, 5]
    there = [int(env.dynamics.next_state[state, 1]) for state in first]
    env.set_goal(there)
    _, reward, terminated, *_ = env.step(np.ones(2, dtype=int))
    assert reward.tolist() == [1, 1]
    assert terminated.all()
    env.step(np.ones(2, dtype=int))
    assert env.goals.tolist() == there
    env.reset(seed=5)
    assert env.goals.tolist() == there
    single = FourRoomsEnv(slip=0)
    state, _ = single.reset(seed=0)
    single.set_goal(int(single.dynamics.next_state[state, 1]))
    assert single.step(1)[1:3] == (1.0, True)


def test_goals_are_part_of_the_state() -> None:
    env, resumed = (FourRoomsVectorEnv(3, max_episode_steps=9, goal=None) for _ in "ab")
    env.reset(seed=0)
    env.action_space.seed(0)
    env.set_goal([1, 2], rows=[0, 2])
    resumed.load_state_dict(tree_map(torch.from_numpy, env.state_dict()))  # as a checkpoint has it
    for _ in range(40):
        actions = env.action_space.sample()
        for one, other in zip(env.step(actions)[:4], resumed.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(one, other)
    assert (env.goals == resumed.goals).all()
    assert env.goals[[0, 2]].tolist() == [1, 2]


@pytest.mark.parametrize("goal", [104, -1, (0, 0), (6, 6), (1, 13), 1.5, (1, 2, 3), "east"])
def test_a_goal_outside_the_space_is_refused(goal: Any) -> None:
    message = r"`goal` must be one of the 104 states, or row and column of a free cell; got"
    with pytest.raises(ValueError, match=message) as error:
        FourRooms(goal=goal)
    assert "\n" not in str(error.value)
    env = FourRoomsVectorEnv(2)
    for give in (env.set_goal, lambda goal: env.set_goal([0, goal]), FourRoomsEnv().set_goal):
        with pytest.raises(ValueError, match=message):
            give(goal)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slip": 1.5}, r"`slip` must lie in \[0, 1\]; got 1.5"),
        ({"slip": float("nan")}, r"`slip` must lie in \[0, 1\]; got nan"),
        ({"slip_to": "walls"}, r'`slip_to` must be "others" or "adjacent"; got \'walls\''),
    ],
)
def test_it_refuses_what_it_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FourRooms(**options)


def test_gymnasium_makes_it_with_goals() -> None:
    register_environments()
    env = gym.make_vec("athena/FourRooms-v0", 3, goals=np.array([5, 6, 7]), slip_to="adjacent")
    env.reset(seed=0)
    assert env.unwrapped.goals.tolist() == [5, 6, 7]
    single = gym.make("athena/FourRooms-v0", goal=5)
    single.unwrapped.set_goal(6)
    assert single.unwrapped.dynamics.goal == 6


def test_goals_must_be_one_a_row_and_a_model_needs_one() -> None:
    with pytest.raises(ValueError, match="one for each of 3 rows; got 2"):
        FourRoomsVectorEnv(3, goals=[1, 2])
    with pytest.raises(ValueError, match="`goal` must be given where each episode draws one"):
        FourRooms(goal=None).model()
    assert FourRooms(goal=None).model(3).start[3] == 0

"""The maze with the noisy television: doors, walls, the goal, and that noise is the one difference."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest

from athena_core.environments import NumpyEnv, NumpyVectorEnv
from athena_explore import ICM, Bonus, Counts, NoisyTVMaze, StepReader, stack_transitions

UP, RIGHT, DOWN, LEFT, PRESS = range(5)


def shortest_path(maze: NoisyTVMaze) -> list[int]:
    """Actions from the start to the goal, by a search of its own over the floor plan."""
    start, goal = (divmod(cell, maze.side) for cell in (maze.start_cell, maze.goal_cell))
    queue, came = deque([start]), {start: []}
    while queue:
        row, column = here = queue.popleft()
        for action, (down, right) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
            there = row + down, column + right
            if maze.free[there] and there not in came:
                came[there] = [*came[here], action]
                queue.append(there)
    assert len(came) == maze.free.sum()  # all free cells can be reached
    return came[goal]


def test_the_plan_of_two_by_two_rooms() -> None:
    plan = NoisyTVMaze(rooms=2, room_size=3).free
    assert ["".join(".#"[not free] for free in row) for row in plan] == [
        "#########",
        "#...#...#",
        "#.......#",
        "#...#...#",
        "##.###.##",
        "#...#...#",
        "#.......#",
        "#...#...#",
        "#########",
    ]


@pytest.mark.parametrize(("rooms", "room_size", "steps"), [(2, 1, 4), (2, 3, 8), (3, 5, 24), (2, 2, 6)])
def test_the_shortest_path_ends_at_the_goal(rooms: int, room_size: int, steps: int) -> None:
    maze = NoisyTVMaze(rooms=rooms, room_size=room_size)
    path = shortest_path(maze)
    assert len(path) == steps
    env = NumpyEnv(maze)
    env.reset(seed=0)
    for index, action in enumerate(path):
        observation, reward, terminated, truncated, _ = env.step(action)
        last = index == len(path) - 1
        assert (reward, terminated, truncated) == (float(last), last, False)
        assert observation in env.observation_space
    assert env.position(observation).tolist() == [*divmod(maze.goal_cell, maze.side)]


def test_walls_stop() -> None:
    env = NumpyEnv(NoisyTVMaze(rooms=2, room_size=1))
    observation, _ = env.reset()
    for action, place in ((UP, [1, 1]), (LEFT, [1, 1]), (RIGHT, [1, 2]), (UP, [1, 2]), (DOWN, [1, 2])):
        observation = env.step(action)[0]
        assert env.position(observation).tolist() == place


@pytest.mark.parametrize("channels", [10, None])
def test_noise_is_the_one_difference(channels: int | None) -> None:
    noisy, quiet = (
        NumpyVectorEnv(NoisyTVMaze(rooms=2, room_size=2, noise=noise, channels=channels), 6)
        for noise in (True, False)
    )
    assert noisy.observation_space == quiet.observation_space
    assert noisy.action_space == quiet.action_space
    ours, other = noisy.reset(seed=0)[0], quiet.reset(seed=0)[0]
    draws, differences, screens = np.random.default_rng(0), 0, set()
    for _ in range(400):
        np.testing.assert_array_equal(ours[:, :2], other[:, :2])
        differences += (ours != other).any()
        screens |= {row.tobytes() for row in other[:, 2:]}
        actions = draws.integers(5, size=6)
        ours, *rest = noisy.step(actions)
        other, *others = quiet.step(actions)
        for one, another in zip(rest[:3], others[:3], strict=True):
            np.testing.assert_array_equal(one, another)
    assert differences > 50
    assert len(screens) == 2  # one picture, and none outside of the room


def test_the_screen_is_seen_and_works_in_the_first_room_alone() -> None:
    env = NumpyEnv(NoisyTVMaze(rooms=2, room_size=1))
    first = env.reset(seed=0)[0][2:]
    assert first.any()
    shown = env.step(PRESS)[0][2:]
    assert not env.step(RIGHT)[0][2:].any()  # in the door
    env.step(PRESS)
    np.testing.assert_array_equal(env.step(LEFT)[0][2:], shown)


def test_a_press_changes_the_screen_and_not_the_place() -> None:
    env = NumpyVectorEnv(NoisyTVMaze(channels=None), 500)
    before, _ = env.reset(seed=0)
    after = env.step(np.full(500, PRESS))[0]
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    pixels = after[:, 2:].ravel()  # uniform: mean 1/2, variance 1/12
    assert abs(pixels.mean() - 0.5) < 5 * (12 * len(pixels)) ** -0.5
    assert len(np.unique(pixels)) > 0.99 * len(pixels)


def test_channels_are_as_many_and_equally_often() -> None:
    env = NumpyVectorEnv(NoisyTVMaze(channels=4), 4000)
    env.reset(seed=0)
    screens = env.step(np.full(4000, PRESS))[0][:, 2:]
    pictures, counts = np.unique(screens, axis=0, return_counts=True)
    assert len(pictures) == 4
    assert set(np.unique(pictures)) == {0, 1}
    assert (abs(counts - 1000) < 5 * 1000**0.5).all()


def test_a_limit_of_time_truncates() -> None:
    env = NumpyVectorEnv(NoisyTVMaze(), 1)
    env.reset()
    for step in range(200):
        _, _, terminated, truncated, _ = env.step(np.array([PRESS]))
        assert (terminated[0], truncated[0]) == (False, step == 199)


def test_the_map_is_of_the_floor() -> None:
    maze = NoisyTVMaze(rooms=2, room_size=3)
    visits = maze.visit_map()
    env = NumpyVectorEnv(maze, 200)
    observation, _ = env.reset(seed=0)
    draws = np.random.default_rng(0)
    for _ in range(300):
        visits.add(env.position(observation))
        observation = env.step(draws.integers(4, size=200))[0]
    assert visits.coverage == 1
    assert not visits.counts[~maze.free].any()


def test_agent_goal_and_screen_are_in_the_picture() -> None:
    env = NumpyEnv(NoisyTVMaze(rooms=2, room_size=3), render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (72, 72, 3)
    assert (picture[2 * 8, 2 * 8] == (200, 40, 40)).all()
    assert (picture[6 * 8, 6 * 8] == (70, 170, 80)).all()
    screen = picture[0:8:2, 16:24:2, 0] / 255
    np.testing.assert_array_equal(screen.ravel(), observation[2:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rooms": 1}, r"`rooms` must be at least 2; got 1"),
        ({"room_size": 0}, r"`room_size` must be at least 1; got 0"),
        ({"channels": 1}, r"`channels` must be at least 2; got 1"),
    ],
)
def test_it_refuses(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoisyTVMaze(**options)


def kept_of_pressing(bonus: Bonus, *, noise: bool) -> float:
    """The mean bonus of a press where the screen is seen: what random steps leave of it, as a share."""
    env = NumpyVectorEnv(NoisyTVMaze(rooms=2, room_size=1, noise=noise), 8)
    reader, draw, means = StepReader(env), np.random.default_rng(0), []
    reader.reset(env.reset(seed=0)[0])
    for _ in range(12):
        steps = []
        for _ in range(32):
            action = np.where(draw.random(8) < 0.3, PRESS, draw.integers(0, 4, 8))
            steps.append(reader.read(action, env.step(action)))
        rollout = stack_transitions(steps)
        pressed = rollout.valid & (rollout.action == PRESS) & rollout.obs[..., 2:].any(-1)
        means.append(float(bonus.score(rollout)[pressed].mean()))
        bonus.update(rollout)
    return means[-1] / means[0]


def test_curiosity_is_paid_for_the_television_and_counts_are_not() -> None:
    """The short version of the learning curves: what noise leaves to be had by pressing on and on."""
    spaces = NoisyTVMaze(rooms=2, room_size=1).observation_space, NoisyTVMaze().action_space

    def by_noise(kind: Any, **options: int) -> float:
        noisy, still = (kept_of_pressing(kind(*spaces, **options), noise=noise) for noise in (True, False))
        return noisy / still

    assert by_noise(ICM, epochs=4) > 5
    assert by_noise(Counts, bins=32) < 2

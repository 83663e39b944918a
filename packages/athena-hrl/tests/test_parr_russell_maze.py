"""The maze of hallways: its map, its slips, and that every goal can be reached."""

from __future__ import annotations

import numpy as np
import pytest

from athena_core.environments import NumpyVectorEnv
from athena_hrl import MazePlace, ParrRussellMaze
from athena_hrl._grid import distances, neighbours, way_to


def test_the_map() -> None:
    maze = ParrRussellMaze()
    assert len(maze.cells) == 3576
    assert maze.free.shape == (91, 91)
    assert not maze.free[[0, -1]].any()
    assert not maze.free[:, [0, -1]].any()
    assert ((maze.intersections >= 0) ^ (maze.hallways >= 0)).all()
    assert np.bincount(maze.intersections[maze.intersections >= 0]).tolist() == [16] * 36
    assert np.bincount(maze.hallways[maze.hallways >= 0]).tolist() == [50] * 60
    assert (distances(maze.next_state, maze.goal_state) >= 0).all()


def test_places_worked_by_hand() -> None:
    maze = ParrRussellMaze(intersections=2)
    assert maze.place(0) == MazePlace(row=1, column=1, intersection=0, hallway=-1)
    assert maze.place(4) == MazePlace(row=1, column=5, intersection=-1, hallway=0)
    assert maze.place(20) == MazePlace(row=1, column=21, intersection=1, hallway=-1)
    assert maze.place(maze.goal_state) == MazePlace(row=18, column=18, intersection=3, hallway=-1)
    assert maze.exits.tolist() == [[-1, 1, -1, 0], [-1, 2, 0, -1], [1, -1, -1, 3], [2, -1, 3, -1]]


@pytest.mark.parametrize("seed", range(5))
def test_exits_lead_through_their_hallways(seed: int) -> None:
    maze = ParrRussellMaze(intersections=3, obstacle_seed=seed)
    assert (distances(maze.next_state, maze.goal_state) >= 0).all()
    for place, exits in enumerate(maze.exits.tolist()):
        for move, hallway in enumerate(exits):
            if hallway < 0:
                continue
            other = place + (-3, 3, -1, 1)[move]
            assert maze.exits[other].tolist()[(1, 0, 3, 2)[move]] == hallway
            inside = (maze.hallways == hallway) | np.isin(maze.intersections, (place, other))
            there = np.zeros_like(maze.free)
            there[tuple(maze.cells[inside].T)] = True
            assert (distances(neighbours(there), 0) >= 0).all()  # joined, the obstacle leaves a way
            assert (maze.hallways == hallway).sum() == 50


@pytest.mark.parametrize("seed", range(3))
def test_obstacles_leave_the_ends_of_hallways_free(seed: int) -> None:
    maze = ParrRussellMaze(obstacle_seed=seed)
    for number in range(60):
        rows, columns = maze.cells[maze.hallways == number].T
        along = rows if np.ptp(rows) > np.ptp(columns) else columns
        widths = np.bincount(along - along.min())
        assert sorted(widths.tolist()) == [2] + [4] * 12
        assert 3 <= widths.argmin() < 10


def test_obstacles_stand_elsewhere_with_another_seed() -> None:
    one, same, other = (ParrRussellMaze(obstacle_seed=seed).free for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()
    assert one.sum() == other.sum()


@pytest.mark.parametrize("slip", [0.0, 0.2, 1.0])
def test_steps_are_as_likely_as_said(slip: float) -> None:
    maze = ParrRussellMaze(intersections=2, slip=slip)
    np.testing.assert_allclose(maze.chances, [1 - slip, slip / 2, slip / 2])
    n = 100_000
    draws = np.random.default_rng(0)
    start = maze.start(draws.integers(2**64, size=n, dtype=np.uint64))
    state, action = draws.integers(len(maze.cells), size=n), draws.integers(4, size=n)
    after, reward, terminated = maze.advance({**start, "cell": state}, action)
    meant = maze.outcomes[state, action]
    assert (reward == -1).all()
    np.testing.assert_array_equal(terminated, after["cell"] == maze.goal_state)
    apart = (meant[:, 0] != meant[:, 1]) & (meant[:, 0] != meant[:, 2]) & (meant[:, 1] != meant[:, 2])
    shares = (after["cell"][apart, None] == meant[apart]).mean(0)
    np.testing.assert_allclose(shares, maze.chances, atol=5 * 0.5 / np.sqrt(apart.sum()))
    assert (after["cell"][:, None] == meant).any(1).all()


def test_a_slip_is_to_a_side() -> None:
    maze = ParrRussellMaze(intersections=2)
    middle = int(np.flatnonzero((maze.cells == (2, 2)).all(1))[0])
    up, down, left, right = maze.next_state[middle]
    for action, (meant, one, other) in enumerate(
        [(up, left, right), (down, left, right), (left, up, down), (right, up, down)]
    ):
        assert maze.outcomes[middle, action].tolist() == [meant, one, other]
    assert maze.cells[[up, down, left, right]].tolist() == [[1, 2], [3, 2], [2, 1], [2, 3]]


def test_the_shortest_way_without_slips_arrives() -> None:
    env = NumpyVectorEnv(ParrRussellMaze(slip=0), 1)
    maze = env.dynamics
    way, far = way_to(maze.next_state, maze.goal_state), int(distances(maze.next_state, maze.goal_state)[0])
    state, total, steps = env.reset(seed=0)[0], 0.0, 0
    terminated = np.array([False])
    while not terminated[0]:
        state, reward, terminated, *_ = env.step(way[state])
        total, steps = total + float(reward[0]), steps + 1
    assert (steps, total) == (far, -far)
    assert far >= 2 * 85


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"intersections": 1}, r"`intersections` must be at least 2 on each side; got 1"),
        ({"slip": -0.1}, r"`slip` must lie in \[0, 1\]; got -0.1"),
    ],
)
def test_it_refuses_what_it_cannot_be(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParrRussellMaze(**options)

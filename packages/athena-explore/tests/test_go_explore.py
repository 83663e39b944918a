"""The Go-Explore archive: what it keeps, chooses and restores, and rounds in small environments."""

from __future__ import annotations

import io
import json
from collections import Counter
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from athena_core.environments import NumpyEnv
from athena_explore import (
    DeepSea,
    GoExploreArchive,
    GoExploreCell,
    Snapshots,
    downscaled_cell,
    return_then_explore,
)

CLIFF = "CliffWalking-v1"  # deterministic; -1 a step, the goal 13 steps away, -100 for the cliff


def explored(rounds: int, *, seed: int = 0, **options: Any) -> GoExploreArchive:
    env, archive = gym.make(CLIFF), GoExploreArchive(int, seed=seed)
    for _ in range(rounds):
        return_then_explore(env, archive, steps=15, **options)
    return archive


def replayed(env: gym.Env, cell: GoExploreCell, seed: int) -> tuple[Any, float, bool]:
    """Where the actions of a cell lead, step by step."""
    observation, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    for action in cell.actions:
        assert not ended
        observation, reward, terminated, truncated, _ = env.step(action)
        total, ended = total + float(reward), terminated or truncated
    return observation, total, ended


def test_every_cell_is_reached_by_its_actions_with_its_return() -> None:
    archive, env = explored(60, repeat=0.5), gym.make(CLIFF)
    assert len(archive.cells) > 25
    for (key, ended), cell in archive.cells.items():
        assert replayed(env, cell, archive.seed) == (key, cell.episode_return, ended)
        assert ended == cell.ended


def test_it_solves_what_random_actions_do_not() -> None:
    archive = explored(400, repeat=0.5)
    best = archive.best()
    assert best.ended
    assert best.episode_return > -30  # the shortest way is -13; an episode of 15 random steps never ends
    _, total, ended = replayed(gym.make(CLIFF), best, archive.seed)
    assert (total, ended) == (best.episode_return, True)


def test_it_goes_to_the_bottom_of_the_deep_sea() -> None:
    """The treasure is behind 25 right actions, each of which costs: once in 2^25 episodes of random ones."""
    archive = GoExploreArchive(int)
    env = NumpyEnv(DeepSea(size=25, observation="index"))
    for _ in range(1000):
        return_then_explore(env, archive, steps=25, repeat=0.8)
        if archive.best().episode_return > 0:
            break
    assert archive.best().actions == [1] * 25
    assert archive.best().episode_return == pytest.approx(0.99)


def test_a_better_way_replaces_a_worse_one_and_visits_go_on() -> None:
    archive = GoExploreArchive(str)
    assert archive.add("a", actions=[1, 1], episode_return=0.0)
    assert not archive.add("a", actions=[1, 1], episode_return=0.0), "the same way is no better"
    assert not archive.add("a", actions=[1, 1, 1], episode_return=0.0), "nor is a longer one"
    assert not archive.add("a", actions=[], episode_return=-1.0), "nor a shorter one of lower return"
    assert archive.add("a", actions=[0], episode_return=0.0)
    archive.select()
    assert archive.add("a", actions=[0, 0, 0], episode_return=2.0, snapshot="s")
    (cell,) = archive.cells.values()
    assert cell == GoExploreCell([0, 0, 0], 2.0, ended=False, snapshot="s", seen=6, chosen=1)


def test_what_is_kept_is_a_copy() -> None:
    archive, actions = GoExploreArchive(int), [1]
    archive.add(0, actions=actions, episode_return=0.0)
    actions.append(2)
    assert archive.select().actions == [1]


def test_seldom_seen_cells_are_chosen_more_often() -> None:
    archive = GoExploreArchive(str)
    for key, seen in (("new", 0), ("some", 3), ("old", 15)):
        for _ in range(seen + 1):
            archive.add(key, actions=[], episode_return=0.0)
    archive.add("end", actions=[], episode_return=9.0, ended=True)
    chances = np.array([2**-0.5, 5**-0.5, 17**-0.5, 0.0])  # 1 / sqrt(seen + 1), of 1, 4 and 16
    np.testing.assert_allclose(archive.weights(), chances / chances.sum())
    keys = {id(cell): place[0] for place, cell in archive.cells.items()}
    drawn = Counter(keys[id(archive.select())] for _ in range(4000))
    assert "end" not in drawn, "nothing can be explored from an end"
    for key, chance in zip(("new", "some", "old"), archive.weights(), strict=False):
        assert drawn[key] / 4000 == pytest.approx(chance, abs=0.03)
    chosen = [cell.chosen for cell in archive.cells.values()]
    assert chosen == [drawn["new"], drawn["some"], drawn["old"], 0]


def test_an_end_is_a_cell_apart_from_the_same_observation_under_way() -> None:
    archive = GoExploreArchive(int)
    archive.add(0, actions=[], episode_return=0.0)
    archive.add(0, actions=[1], episode_return=5.0, ended=True)
    assert len(archive.cells) == 2
    assert archive.select().actions == []
    assert archive.best().actions == [1]


def test_a_time_limit_ends_an_exploration() -> None:
    env, archive = gym.make(CLIFF, max_episode_steps=7), GoExploreArchive(int)
    for _ in range(40):
        return_then_explore(env, archive, steps=15)
    assert max(len(cell.actions) for cell in archive.cells.values()) <= 7
    assert any(cell.ended for cell in archive.cells.values())


def _save(env: gym.Env) -> int:
    return int(env.unwrapped.s)


def _restore(env: gym.Env, snapshot: int) -> None:
    env.unwrapped.s = snapshot


def test_snapshots_return_without_steps_to_the_same_cells() -> None:
    by_actions, by_snapshot = explored(30), explored(30, snapshots=Snapshots(_save, _restore))
    assert [*by_snapshot.cells] == [*by_actions.cells]
    for cell, other in zip(by_snapshot.cells.values(), by_actions.cells.values(), strict=True):
        assert (cell.actions, cell.episode_return) == (other.actions, other.episode_return)
        assert cell.ended or cell.snapshot is not None
    assert by_snapshot.steps < by_actions.steps
    assert by_snapshot.steps <= 30 * 15


def test_repeating_takes_the_same_action_again() -> None:
    archive = GoExploreArchive(lambda observation: tuple(observation.tolist()))
    env = gym.make("MountainCar-v0")
    return_then_explore(env, archive, steps=20, repeat=1.0)
    longest = max((cell.actions for cell in archive.cells.values()), key=len)
    assert len(longest) == 20
    assert len(set(longest)) == 1


def test_continuous_actions_are_kept_and_taken_again() -> None:
    archive = GoExploreArchive(lambda observation: tuple(np.round(observation * 10).tolist()))
    env = gym.make("MountainCarContinuous-v0")
    for _ in range(6):
        return_then_explore(env, archive, steps=20, repeat=0.9)
    assert json.loads(json.dumps(archive.best().actions)) == archive.best().actions


def test_it_resumes_from_its_state() -> None:
    archive, env = explored(20), gym.make(CLIFF)
    file = io.BytesIO()
    torch.save(archive.state_dict(), file)
    file.seek(0)
    fresh = GoExploreArchive(int, seed=9)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for one in (archive, fresh):
        for _ in range(10):
            return_then_explore(env, one, steps=15)
    assert fresh.cells == archive.cells
    assert (fresh.steps, fresh.seed) == (archive.steps, archive.seed)


def test_it_follows_its_seed_and_leaves_others_alone() -> None:
    before = np.random.get_state()[1].copy()
    assert explored(10, seed=1).cells == explored(10, seed=1).cells
    assert explored(10, seed=1).cells != explored(10, seed=2).cells
    assert np.array_equal(before, np.random.get_state()[1])


class Drifting(gym.Env):
    """Starts elsewhere each time, whatever the seed."""

    observation_space, action_space = gym.spaces.Discrete(1000), gym.spaces.Discrete(2)
    starts = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        self.starts += 1
        return self.starts, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return self.starts * 10 + int(action), 0.0, False, False, {}


def test_an_environment_that_cannot_be_returned_to_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"actions of a cell must lead back to it.*deterministic"):
        return_then_explore(Drifting(), GoExploreArchive(int))


def test_bad_options_are_refused() -> None:
    env, archive = gym.make(CLIFF), GoExploreArchive(int)
    with pytest.raises(ValueError, match="`steps` must be at least 1; got 0"):
        return_then_explore(env, archive, steps=0)
    for repeat in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`repeat` must lie in"):
            return_then_explore(env, archive, repeat=repeat)
    with pytest.raises(ValueError, match="the archive must hold a cell that is no end"):
        archive.select()
    with pytest.raises(ValueError, match="the archive must hold a cell; got none"):
        archive.best()
    with pytest.raises(ValueError, match="`episode_return` must be finite; got nan"):
        archive.add(0, actions=[], episode_return=float("nan"))


@pytest.mark.parametrize("shape", [(8, 11), (84, 84), (210, 160, 3), (9, 13, 1)])
def test_downscaling_equals_loops(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    grey = image.astype(float).reshape(*shape[:2], -1).mean(2)
    rows, columns = np.linspace(0, shape[0], 9).astype(int), np.linspace(0, shape[1], 12).astype(int)
    expected = [
        int(grey[top:bottom, left:right].mean() * 8 // 256)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]
    assert downscaled_cell(image) == tuple(expected)


def test_downscaling_tells_extremes_and_refuses_small_images() -> None:
    white = np.full((16, 22), 255, np.uint8)
    assert set(downscaled_cell(white)) == {7}
    assert set(downscaled_cell(0 * white, levels=3)) == {0}
    assert len(downscaled_cell(white, height=2, width=3)) == 6
    with pytest.raises(ValueError, match="`image` must be at least 8 x 11; got 8 x 10"):
        downscaled_cell(np.zeros((8, 10), np.uint8))

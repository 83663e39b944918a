"""HIRO's two levels against a record of what the environment did, in every way of starting again."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from line_env import LineEnv

from athena_core.environments import ReplayableEnv
from athena_hrl import HIRO
from athena_hrl._point_maze import PointMazeVectorEnv

SMALL: dict[str, Any] = {"goal_dims": [0], "subgoal_range": 3.0, "td3": {"hidden": [8]}, "batch_size": 8}
IDLE = {**SMALL, "warm_up": 10**9}  # never updates
LENGTHS = [-7, 7, 4, -4, -2, 9, 1]


def envs(mode: AutoresetMode | None, **options: Any) -> tuple[list[LineEnv], Any]:
    singles = [
        LineEnv(LENGTHS[start:] + LENGTHS[:start], **options) for start in range(1 if mode is None else 3)
    ]
    if mode is None:
        return singles, singles[0]
    return singles, SyncVectorEnv([lambda one=one: one for one in singles], autoreset_mode=mode)


MODES = [None, AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


@pytest.mark.parametrize("goals", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_the_worker_learns_from_every_transition_and_no_other(mode, goals):
    singles, env = envs(mode, goals=goals)
    hiro = HIRO(env, subgoal_every=4, gamma=0.9, **IDLE).learn(120)
    rows = {name: values.numpy() for name, values in hiro.worker_ring.rows().items()}
    assert hiro.steps == len(hiro.worker_ring) == sum(len(one.record) for one in singles)
    known = {
        (tuple(before), tuple(after)): ended
        for one in singles
        for before, _, _, after, ended, _ in one.record
    }
    for state_t, state_tp1, discount in zip(
        rows["state_t"], rows["state_tp1"], rows["discount_tp1"], strict=True
    ):
        terminated = known[tuple(state_t), tuple(state_tp1)]
        assert discount == pytest.approx(0.0 if terminated else 0.9)


@pytest.mark.parametrize("mode", MODES)
def test_the_workers_reward_is_minus_the_distance_to_a_place_that_stays(mode):
    _, env = envs(mode)
    hiro = HIRO(env, subgoal_every=4, **IDLE).learn(120)
    rows = {name: values.numpy() for name, values in hiro.worker_ring.rows().items()}
    place_t = rows["state_t"][:, :1] + rows["subgoal_t"]
    place_tp1 = rows["state_tp1"][:, :1] + rows["subgoal_tp1"]
    np.testing.assert_allclose(place_t, place_tp1, atol=1e-5)
    distance = np.abs(place_t - rows["state_tp1"][:, :1])[:, 0]
    np.testing.assert_allclose(rows["reward_tp1"], -distance, atol=1e-5)


@pytest.mark.parametrize("goals", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_pitfall_27_the_managers_transitions_are_paths_of_at_most_c_steps_within_an_episode(mode, goals):
    singles, env = envs(mode, goals=goals)
    hiro = HIRO(env, subgoal_every=4, manager_gamma=0.8, reward_scale=0.5, **IDLE).learn(150)
    rows = {name: values.numpy() for name, values in hiro.manager_ring.rows().items()}
    expected = sorted(expected_paths(singles), key=str)
    found = []
    for index in range(len(hiro.manager_ring)):
        n = int(rows["mask"][index].sum())
        assert rows["mask"][index].tolist() == [1.0] * n + [0.0] * (4 - n)
        actions = 2 * rows["actions"][index, :n, 0]  # the environment's range is twice [-1, 1]
        found.append(
            (
                [tuple(state) for state in rows["states"][index, :n].tolist()],
                tuple(rows["last_state"][index].tolist()),
                [round(action, 3) for action in actions.tolist()],
                float(rows["reward"][index]),
                round(float(rows["discount"][index]), 3),
            )
        )
        if goals:
            assert rows["goal"][index] == rows["states"][index, 0, 2]  # that of its own episode
    found = [one for one in found if one in expected]
    # All paths that are over, and nothing else.
    assert sorted(found, key=str) == expected
    assert len(hiro.manager_ring) == len(expected)
    lengths = {len(one[0]) for one in expected}
    assert lengths == {1, 2, 3, 4}


def expected_paths(singles: list[LineEnv]) -> list[Any]:
    """From the record: cut every four steps and at ends; the last one that is not over is left out."""
    paths = []
    for single in singles:
        steps: list[Any] = []
        for one in single.record:
            steps.append(one)
            if len(steps) == 4 or one[4] or one[5]:
                states = [tuple(step[0].tolist()) for step in steps]
                actions = [round(step[1], 3) for step in steps]
                reward = 0.5 * sum(step[2] for step in steps)
                paths.append((states, tuple(one[3].tolist()), actions, reward, 0.0 if one[4] else 0.8))
                steps = []
    return paths


def test_managers_learn_from_corrected_subgoals_as_shares_of_their_range():
    options = {**SMALL, "warm_up": 40, "subgoal_every": 4}
    with_it, without = (
        HIRO(envs(AutoresetMode.SAME_STEP)[1], correct=one, **options).learn(90) for one in (True, False)
    )
    plain = without.manager_batch()
    kept = without.manager_ring.rows()["subgoal"] / 3
    assert all(bool((kept == action).all(1).any()) for action in plain.action_t)
    corrected = with_it.manager_batch()
    kept = with_it.manager_ring.rows()["subgoal"] / 3
    assert not all(bool((kept == action).all(1).any()) for action in corrected.action_t)
    assert bool((corrected.action_t.abs() <= 1).all())


def test_both_levels_are_updated_as_often_as_told():
    hiro = HIRO(
        LineEnv([5]), warm_up=20, subgoal_every=4, steps_per_update=3, manager_every=2, **SMALL
    ).learn(80)
    assert hiro.worker.updates == 80 // 3 - 19 // 3
    assert hiro.manager.updates == hiro.worker.updates // 2


def test_predict_keeps_a_subgoal_for_c_steps_and_moves_it_along():
    hiro = HIRO(LineEnv([50]), subgoal_every=3, **IDLE)
    states = np.array([[0.0, 0, 0], [0.5, 1, 0], [2.0, 2, 0], [2.5, 3, 0]], dtype=np.float32)
    memory, places = None, []
    for state in states:
        action, memory = hiro.predict(state, memory)
        assert action.shape == (1,)
        assert hiro.action_space.contains(action)
        places.append(memory.subgoal[0, 0] + state[0])
    np.testing.assert_allclose(places[:3], places[0], atol=1e-6)
    fresh = hiro.predict(states[3])[1]
    assert memory.age[0] == fresh.age[0] == 1  # the fourth step has a new one, from the manager
    np.testing.assert_array_equal(memory.subgoal, fresh.subgoal)
    _, memory = hiro.predict(states[:2])
    _, memory = hiro.predict(states[1:3], memory, episode_start=np.array([True, False]))
    assert memory.age.tolist() == [1, 2]


def test_predict_of_a_batch_is_that_of_each_row():
    hiro = HIRO(LineEnv([50], goals=True), subgoal_every=3, **IDLE)
    states = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    goals = np.arange(4, dtype=np.float32)[:, None]
    batch = {"observation": states, "achieved_goal": states[:, :1], "desired_goal": goals}
    actions, _ = hiro.predict(batch)
    for row in range(4):
        alone, _ = hiro.predict({name: part[row] for name, part in batch.items()})
        np.testing.assert_allclose(alone, actions[row], atol=1e-6)


def test_a_resumed_learner_equals_an_uninterrupted_one():
    def make() -> HIRO:
        env = PointMazeVectorEnv(3, max_episode_steps=11, autoreset_mode="SameStep")
        return HIRO(
            env, **{**SMALL, "goal_dims": [0, 1]}, warm_up=20, subgoal_every=4, noise=0.2, random_subgoals=0.3
        )

    whole, cut, resumed = make().learn(90), make().learn(45), make()
    resumed.load_state_dict(cut.state_dict())
    resumed.learn(45)
    ours, theirs = (torch.utils._pytree.tree_leaves(one.state_dict()) for one in (whole, resumed))
    for one, other in zip(ours, theirs, strict=True):
        assert (
            torch.equal(torch.as_tensor(one), torch.as_tensor(other))
            if hasattr(one, "shape")
            else one == other
        )


def test_a_single_environment_is_restored_by_playing_its_episode_again():
    def make() -> HIRO:
        env = ReplayableEnv(gym.make("Pendulum-v1", max_episode_steps=7), seed=0)
        return HIRO(env, subgoal_every=4, warm_up=5, **SMALL)

    whole, cut, resumed = make().learn(24), make().learn(12), make()
    resumed.load_state_dict(cut.state_dict())
    resumed.learn(12)
    ours, theirs = (one.worker_ring.rows()["state_tp1"] for one in (whole, resumed))
    assert torch.equal(ours, theirs)


def test_without_a_state_of_the_environment_a_loaded_learner_begins_anew():
    first = HIRO(LineEnv([5]), subgoal_every=4, **IDLE).learn(7)
    state = first.state_dict()
    assert state["rows"] is None
    env = LineEnv([5])
    second = HIRO(env, subgoal_every=4, **IDLE)
    second.load_state_dict(state)
    second.learn(3)
    assert (second.steps, env.episode, second.paths.age.tolist()) == (10, 0, [3])


def test_a_short_training_teaches_the_worker_to_reach_subgoals():
    """On an open floor: within ten steps it comes nearer than a tenth of the way, whatever the direction."""
    floor = ["#######", *["#     #"] * 2, "#S   G#", *["#     #"] * 2, "#######"]
    env = PointMazeVectorEnv(8, layout=floor, speed=0.2, max_episode_steps=40, autoreset_mode="SameStep")
    options = {"goal_dims": [0, 1], "subgoal_range": 1.5, "random_subgoals": 1.0, "warm_up": 800}
    td3 = {"hidden": [32, 32], "actor_lr": 1e-3, "critic_lr": 2e-3}
    hiro = HIRO(
        env, steps_per_update=8, batch_size=128, manager_every=10**6, td3=td3, seed=1, **options
    ).learn(8000)
    left = []
    for angle in np.linspace(0, 2 * np.pi, 8, endpoint=False):
        start = np.array([3.5, 3.5], dtype=np.float32)
        place = start + np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)
        for _ in range(10):
            action = hiro._from_worker(start[None], (place - start)[None])[0]
            start = start + np.float32(0.2) * action
        left.append(np.linalg.norm(place - start))
    assert np.median(left) < 0.15, left


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subgoal_every": 0}, "`subgoal_every` must be at least 1; got 0"),
        ({"gamma": 1.5}, r"`gamma` must lie in \[0, 1\]"),
        ({"manager_gamma": -0.1}, "`manager_gamma` must lie"),
        ({"random_subgoals": 2.0}, "`random_subgoals` must lie"),
        ({"steps_per_update": 0}, "`steps_per_update` must be"),
        ({"manager_every": 0}, "`manager_every` must be"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"noise": -0.1}, "`noise` must be at least 0"),
        ({"manager_noise": float("nan")}, "`manager_noise` must be"),
        ({"reward_scale": 0.0}, "`reward_scale` must be a positive number"),
        ({"goal_dims": []}, "`goal_dims` must be different ones of 0 to 2"),
        ({"goal_dims": [0, 0]}, "`goal_dims` must be different"),
        ({"goal_dims": [3]}, "`goal_dims` must be different"),
        ({"subgoal_range": 0.0}, "`subgoal_range` must be positive"),
        ({"subgoal_range": [1.0, 2.0]}, "`subgoal_range` must be positive, one number or 1"),
        ({"subgoal_range": float("nan")}, "`subgoal_range` must be positive"),
    ],
)
def test_numbers_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HIRO(LineEnv([5]), **{**SMALL, **options})


def test_other_spaces_are_refused():
    with pytest.raises(ValueError, match="actions must be a bounded Box; got Discrete"):
        HIRO(gym.make("CartPole-v1"), **SMALL)
    env = LineEnv([5])
    env.observation_space = spaces.Discrete(3)
    with pytest.raises(ValueError, match="observations must be a Box, or a Dict"):
        HIRO(env, **SMALL)

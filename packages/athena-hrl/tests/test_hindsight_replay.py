"""Hindsight replay against a plain record of the episodes, and each known pitfall."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import hindsight_record as record
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from athena_core import AthenaError, load_checkpoint, save_checkpoint
from athena_hrl import BitFlip, GoalTask, HindsightReplay
from athena_hrl._goal_dynamics import GoalVectorEnv

STRATEGIES = ["future", "final", "episode", "random", "prioritised"]


def play(
    replay: HindsightReplay,
    plain: record.Record,
    lengths: list[list[int]],
    *,
    seed: int = 0,
    pauses: float = 0.0,
    steps: int | None = None,
    bonus: bool = False,
) -> None:
    """Episodes of these lengths in each environment, one after the other, into the replay and the record.

    Some environments may pause, as those that only reset; a row of nonsense is then handed over.
    """
    rng = np.random.default_rng(seed)
    count = len(lengths)
    ends = [np.cumsum(each) for each in lengths]
    done_steps = [len(each) for each in plain.steps]
    base = list(done_steps)
    for _ in range(steps or max(int(each[-1]) for each in ends)):
        valid = rng.random(count) >= pauses
        rows = []
        for env in range(count):
            if not valid[env]:
                rows.append(record.Step(99, 99, 99, 0, 0.0, (99, 99, 99), bool(rng.integers(2)), False))
                continue
            at = len(plain.steps[env]) - base[env]
            over = at + 1 in ends[env]
            truncated = bool(over and rng.integers(2))
            both = bool(over and rng.integers(4) == 0)
            rows.append(
                plain.play(env, rng, terminated=over and (both or not truncated), truncated=truncated)
            )
        replay.add(
            record.batched(rows, 0),
            np.array([row.action for row in rows]),
            np.array([row.reward for row in rows]),
            record.batched(rows, 1),
            terminated=np.array([row.terminated for row in rows]),
            truncated=np.array([row.truncated for row in rows]),
            infos=[{"bonus": 0.25 * row.t} if bonus else {} for row in rows],
            valid=None if pauses == 0 else valid,
        )


def check_batch(
    batch: Any,
    plain: record.Record,
    capacity: int,
    *,
    strategy: str = "future",
    terminates: bool = True,
    bonus: bool = False,
) -> tuple[set[record.Step], dict[record.Step, set[tuple[int, ...]]]]:
    """Each transition against the record; which were drawn, and with which goals in hindsight."""
    episodes = plain.episodes(capacity)
    drawn: set[record.Step] = set()
    goals: dict[record.Step, set[tuple[int, ...]]] = {}
    for i in range(len(batch.row)):
        (env, episode), (t, _) = batch.obs["observation"][i].astype(int).tolist()
        assert (env, episode) in episodes, "an episode that is unfinished, half overwritten or none at all"
        step = episodes[env, episode][t]
        drawn.add(step)
        desired = tuple(batch.obs["desired_goal"][i].tolist())
        expected = step.reward, step.terminated
        if i < len(batch.goal_row):
            assert desired in record.allowed_goals(strategy, step, episodes)
            goals.setdefault(step, set()).add(desired)
            info = {"bonus": 0.25 * step.t} if bonus else {}
            expected = (
                record.reward_of_one(step.achieved(1), desired, info),
                record.ended_of_one(step.achieved(1), desired, {}) if terminates else step.terminated,
            )
        else:
            assert desired == step.desired
        assert tuple(batch.next_obs["desired_goal"][i].tolist()) == desired
        for after, obs in enumerate((batch.obs, batch.next_obs)):
            np.testing.assert_array_equal(obs["observation"][i], step.obs(after)["observation"])
            assert tuple(obs["achieved_goal"][i].tolist()) == step.achieved(after)
        assert batch.action[i] == step.action
        assert (float(batch.reward[i]), bool(batch.terminated[i])) == pytest.approx(expected)
        assert batch.truncated[i] == step.truncated
    return drawn, goals


@settings(max_examples=150)
@given(
    lengths=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=7), min_size=1, max_size=3),
    capacity=st.integers(6, 14),
    steps=st.integers(1, 40),
    pauses=st.sampled_from([0.0, 0.3]),
    strategy=st.sampled_from(STRATEGIES),
    at_once=st.booleans(),
    terminates=st.booleans(),
    bonus=st.booleans(),
    k=st.sampled_from([0, 1, 4]),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_every_sample_is_in_the_record(
    lengths: list[list[int]],
    capacity: int,
    steps: int,
    pauses: float,
    strategy: str,
    at_once: bool,
    terminates: bool,
    bonus: bool,
    k: int,
    batch_size: int,
    seed: int,
) -> None:
    task = record.task(at_once=at_once, terminates=terminates)
    replay = HindsightReplay(
        task, capacity, n_envs=len(lengths), strategy=strategy, n_sampled_goal=k, copy_info=bonus, seed=seed
    )
    plain = record.Record(len(lengths))
    longest = min(steps, *(sum(each) for each in lengths)) if pauses else min(sum(each) for each in lengths)
    play(replay, plain, lengths, seed=seed, pauses=pauses, steps=min(steps, longest), bonus=bonus)
    episodes = plain.episodes(capacity)
    assert len(replay) == sum(map(len, episodes.values()))
    if not len(replay):
        with pytest.raises(RuntimeError, match="finished episode"):
            replay.sample(batch_size)
        return
    batch = replay.sample(batch_size)
    assert abs(len(batch.goal_row) - batch_size * k / (k + 1)) < 1
    check_batch(batch, plain, capacity, strategy=strategy, terminates=terminates, bonus=bonus)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_that_may_be_drawn_is_drawn(strategy: str) -> None:
    replay = HindsightReplay(record.task(), 17, n_envs=3, strategy=strategy)
    plain = record.Record(3)
    play(replay, plain, [[5, 3, 4, 6, 2], [7, 1, 1, 7, 4], [2, 9, 8, 1]])
    drawn, goals = check_batch(replay.sample(4000), plain, 17, strategy=strategy)
    episodes = plain.episodes(17)
    assert drawn == {step for steps in episodes.values() for step in steps}
    allowed = {step: record.allowed_goals(strategy, step, episodes) for step in drawn}
    if strategy == "random":  # too many pairs to meet each
        assert set().union(*goals.values()) == set().union(*allowed.values())
    else:
        assert goals == allowed


# The pitfalls of the reference file, one by one.


def one_episode(length: int, strategy: str, **options: Any) -> tuple[HindsightReplay, record.Record]:
    replay = HindsightReplay(record.task(), 20, strategy=strategy, **options)
    plain = record.Record(1)
    play(replay, plain, [[length]])
    return replay, plain


def test_pitfall_1_final_is_the_state_after_the_last_step() -> None:
    replay, _ = one_episode(5, "final", n_sampled_goal=1e6)
    batch = replay.sample(50)
    assert set(map(tuple, batch.obs["desired_goal"].tolist())) == {(0, 0, 5)}


def test_pitfall_2_future_is_uniform_from_the_next_state_to_the_last() -> None:
    replay, _ = one_episode(4, "future", n_sampled_goal=1e6)
    batch = replay.sample(40_000)
    t = batch.obs["achieved_goal"][:, 2]
    goal = batch.obs["desired_goal"][:, 2]
    for step in range(4):
        share = np.bincount(goal[t == step], minlength=5) / (t == step).sum()
        expected = [0.0] * (step + 1) + [1 / (4 - step)] * (4 - step)
        np.testing.assert_allclose(share, expected, atol=0.03)  # 4 standard errors of 10,000 draws


def test_pitfall_3_the_goal_is_in_both_observations_and_the_reward_of_what_was_reached() -> None:
    replay, _ = one_episode(3, "final", n_sampled_goal=1e6)
    batch = replay.sample(100)
    last = batch.obs["achieved_goal"][:, 2] == 2
    np.testing.assert_array_equal(batch.obs["desired_goal"], batch.next_obs["desired_goal"])
    np.testing.assert_array_equal(batch.reward == 0, last)  # achieved first, desired second: not symmetric
    expected = -1 - 0.125 * (0 + 2 * 3)
    np.testing.assert_array_equal(batch.reward[~last], np.float32(expected))


@pytest.mark.parametrize("continues", [False, True])
@pytest.mark.parametrize("recomputes", [False, True])
def test_pitfall_4_terminated_is_recomputed_and_truncated_kept(continues: bool, recomputes: bool) -> None:
    """An environment that ends on success, and one that goes on after it."""
    ended = (
        (lambda achieved, desired, info: (achieved == desired).all(-1) & (not continues))
        if recomputes
        else None
    )
    space = spaces.Dict(
        {key: spaces.Box(-9, 9, (1,)) for key in ("observation", "achieved_goal", "desired_goal")}
    )
    task = GoalTask(
        space,
        spaces.Discrete(2),
        compute_reward=lambda achieved, desired, info: (achieved == desired).all(-1) - 1.0,
        compute_terminated=ended,
    )
    replay = HindsightReplay(task, 20, strategy="episode", n_sampled_goal=1e6)
    for episode in range(2):
        for t in range(4):
            obs = {"observation": [t], "achieved_goal": [t], "desired_goal": [4 if episode else 9]}
            after = {**obs, "observation": [t + 1], "achieved_goal": [t + 1]}
            success = t == 3 and episode == 1 and not continues
            replay.add(obs, 0, -1.0, after, terminated=success, truncated=t == 3 and not success)
    batch = replay.sample(4000)
    reached = (batch.next_obs["achieved_goal"] == batch.obs["desired_goal"])[:, 0]
    second = batch.row >= 4
    last = batch.obs["achieved_goal"][:, 0] == 3
    np.testing.assert_array_equal(batch.reward, reached - np.float32(1))
    if recomputes:
        np.testing.assert_array_equal(batch.terminated, reached & (not continues))
    else:
        np.testing.assert_array_equal(batch.terminated, last & second & (not continues))
    np.testing.assert_array_equal(batch.truncated, last & ~(second & (not continues)))


def test_pitfall_5_only_whole_finished_episodes_supply_goals() -> None:
    replay, plain = HindsightReplay(record.task(), 10, n_envs=2), record.Record(2)
    play(replay, plain, [[4, 4, 5], [9, 4]], steps=11)
    assert set(plain.episodes(10)) == {(0, 1)}  # the first is half overwritten, the third under way
    check_batch(replay.sample(500), plain, 10)
    replay.truncate()
    steps = {env: int(written) for env, written in enumerate(replay.ring.written)}
    assert steps == {0: 11, 1: 11}
    assert len(replay) == 4 + 3 + 2
    batch = replay.sample(500)
    cut = batch.truncated & (
        batch.obs["observation"][:, 1, 0] == np.where(batch.obs["observation"][:, 0, 0], 1, 2)
    )
    assert cut.any()
    assert not batch.terminated[len(batch.goal_row) :][cut[len(batch.goal_row) :]].any()


def test_pitfall_6_no_goal_crosses_episodes_or_environments_and_many_equal_one() -> None:
    batches = []
    for at_once in (True, False):
        replay, plain = HindsightReplay(record.task(at_once=at_once), 30, n_envs=3), record.Record(3)
        play(replay, plain, [[3, 5, 2], [1, 1, 8], [4, 6]])
        batches.append(replay.sample(200))
        assert replay.task.reward.at_once is at_once
        goal, own = batches[-1].obs["desired_goal"], batches[-1].obs["achieved_goal"]
        hindsight = slice(0, len(batches[-1].goal_row))
        np.testing.assert_array_equal(goal[hindsight, :2], own[hindsight, :2])
    np.testing.assert_array_equal(batches[0].reward, batches[1].reward)
    np.testing.assert_array_equal(batches[0].terminated, batches[1].terminated)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_pitfall_6_rows_that_only_reset_are_never_sampled(mode: AutoresetMode) -> None:
    env = GoalVectorEnv(BitFlip(bits=3), 4, autoreset_mode=mode)
    replay = HindsightReplay(env, 60)
    obs, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        action = rng.integers(3, size=4)
        next_obs, reward, terminated, truncated, info = env.step(action)
        last = {key: part.copy() for key, part in next_obs.items()}
        for row in np.flatnonzero(terminated | truncated):
            if mode is AutoresetMode.SAME_STEP:
                for key, part in last.items():
                    part[row] = info["final_obs"][row][key]
        replay.add(obs, action, reward, last, terminated=terminated, truncated=truncated)
        obs = next_obs
    batch = replay.sample(4000)
    flipped = (batch.obs["observation"] != batch.next_obs["observation"]).sum(axis=1)
    assert (flipped == 1).all()  # a reset changes any number of bits
    reached = (batch.next_obs["observation"] == batch.obs["desired_goal"]).all(axis=1)
    np.testing.assert_array_equal(batch.reward, reached - np.float32(1))
    np.testing.assert_array_equal(batch.terminated, reached)


def test_an_end_of_a_row_that_took_no_step_is_none() -> None:
    """Under NEXT_STEP a row only resets after its own end: what stood in its place says nothing."""
    env = GoalVectorEnv(BitFlip(bits=3), 1, autoreset_mode=AutoresetMode.NEXT_STEP)
    replay = HindsightReplay(env, 10)
    obs, _ = env.reset(seed=0)
    step: Any = (obs, [0], [-1.0], obs)
    replay.add(*step, terminated=[True], truncated=[False], valid=np.array([False]))
    replay.add(*step, terminated=[False], truncated=[True])
    assert len(replay) == 1


def test_the_first_step_after_a_reset_by_hand_is_kept_where_it_is_valid() -> None:
    env = GoalVectorEnv(BitFlip(bits=3), 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    replay = HindsightReplay(env, 60)
    steps = 0
    for seed in range(5):
        obs, _ = env.reset(seed=seed)
        ended = np.zeros(2, np.bool_)
        while not ended.all():
            next_obs, reward, terminated, truncated, _ = env.step(np.array([0, 1]))
            ends = {"terminated": terminated, "truncated": truncated}
            replay.add(obs, np.array([0, 1]), reward, next_obs, **ends, valid=~ended)
            steps += int((~ended).sum())
            obs, ended = next_obs, ended | terminated | truncated
    assert len(replay) == steps
    batch = replay.sample(2000)
    assert ((batch.obs["observation"] != batch.next_obs["observation"]).sum(axis=1) == 1).all()


@pytest.mark.parametrize("k", [0, 0.5, 1, 4, 7])
def test_pitfall_7_the_share_of_hindsight_is_exact_in_expectation(k: float) -> None:
    replay, _ = one_episode(6, "future", n_sampled_goal=k)
    counts = [len(replay.sample(3).goal_row) for _ in range(4000)]
    assert np.mean(counts) / 3 == pytest.approx(k / (k + 1), abs=0.02)
    assert np.ptp(counts) <= 1


def test_pitfall_8_a_checkpoint_goes_on_in_the_middle_of_an_episode(tmp_path: Any) -> None:
    replays = [
        HindsightReplay(record.task(), 12, n_envs=2, strategy="prioritised", copy_info=True) for _ in range(2)
    ]
    first, second = replays
    plain = record.Record(2)
    play(first, plain, [[5, 4, 6], [7, 8]], steps=13, bonus=True)
    first.update_priorities(first.sample(10).goal_row, np.arange(8.0))
    save_checkpoint(tmp_path / "replay.pt", first.state_dict())
    second.load_state_dict(load_checkpoint(tmp_path / "replay.pt"))
    for replay in replays:
        other = record.Record(2)
        other.__dict__.update(
            {"steps": [list(each) for each in plain.steps], "_episode": [2, 1], "_t": [4, 6]}
        )
        play(replay, other, [[2, 5], [2, 3]], seed=1, steps=5, bonus=True)
    for one, two in zip(first.sample(50), second.sample(50), strict=True):
        np.testing.assert_equal(one, two)
    check_batch(second.sample(200), other, 12, strategy="prioritised", bonus=True)


# What is wrong, is said.


def test_an_episode_longer_than_the_buffer_raises() -> None:
    replay, plain = HindsightReplay(record.task(), 4, n_envs=2), record.Record(2)
    with pytest.raises(
        ValueError, match=r"`capacity` must hold a whole episode; got 4 .* environment 1 is longer"
    ):
        play(replay, plain, [[2, 2, 2], [1, 9]], steps=6)


def test_an_episode_as_long_as_the_buffer_fits() -> None:
    replay, plain = HindsightReplay(record.task(), 4), record.Record(1)
    play(replay, plain, [[4, 4, 4]])
    drawn, _ = check_batch(replay.sample(200), plain, 4)
    assert {step.episode for step in drawn} == {2}


def test_no_finished_episode_raises() -> None:
    replay = HindsightReplay(record.task(), 9)
    with pytest.raises(RuntimeError, match="finished episode; none is stored"):
        replay.sample(4)


def test_an_environment_without_compute_reward_raises() -> None:
    with pytest.raises(ValueError, match="`env` must have `compute_reward"):
        HindsightReplay(_NoReward(), 10)


class _NoReward(gym.Env[Any, Any]):
    observation_space, action_space = record.SPACE, record.ACTIONS


def test_an_environment_without_goals_raises() -> None:
    with pytest.raises(TypeError, match="must be a Dict with observation, achieved_goal, desired_goal"):
        GoalTask(spaces.Discrete(2), spaces.Discrete(2), compute_reward=record.reward_of_one)
    wide = spaces.Dict({**record.SPACE.spaces, "achieved_goal": spaces.Box(0, 1, (4,))})
    with pytest.raises(TypeError, match="`achieved_goal` must have the shape and the type of `desired_goal`"):
        GoalTask(wide, spaces.Discrete(2), compute_reward=record.reward_of_one)


def test_an_unknown_strategy_names_the_nearest() -> None:
    with pytest.raises(AthenaError, match=r"unknown goal-strategy `futur`. Did you mean `future`\?"):
        HindsightReplay(record.task(), 10, strategy="futur")
    with pytest.raises(TypeError, match="must be a name or a `GoalStrategy`"):
        HindsightReplay(record.task(), 10, strategy=3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"capacity": 0}, "`capacity` must be at least 1; got 0"),
        ({"n_envs": 0}, "`n_envs` must be at least 1; got 0"),
        ({"n_sampled_goal": -1}, "`n_sampled_goal` must be a finite number of at least 0; got -1"),
        ({"n_sampled_goal": np.inf}, "`n_sampled_goal` must be a finite number"),
    ],
)
def test_numbers_outside_their_range_raise(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HindsightReplay(record.task(), **{"capacity": 10, **options})


def test_what_does_not_fit_raises() -> None:
    replay, _ = one_episode(3, "future")
    with pytest.raises(ValueError, match="`batch_size` must be at least 1; got 0"):
        replay.sample(0)
    with pytest.raises(ValueError, match="`strategy` must ask for priorities"):
        replay.update_priorities(np.zeros(1, int), [1.0])
    other = HindsightReplay(record.task(), 21)
    with pytest.raises(ValueError, match="must be of 21 steps of 1 environments"):
        other.load_state_dict(replay.state_dict())
    copying = HindsightReplay(record.task(), 20, copy_info=True)
    with pytest.raises(ValueError, match=r"must hold infos.* options of the one that was saved"):
        copying.load_state_dict(replay.state_dict())
    with pytest.raises(ValueError, match="must not hold infos"):
        replay.load_state_dict(copying.state_dict())
    wide = GoalTask(record.SPACE, spaces.Box(0, 1, (2,)), compute_reward=record.reward_of_one)
    with pytest.raises(ValueError, match=r"'action': \(2,\).* Take that of a buffer of these spaces"):
        HindsightReplay(wide, 20).load_state_dict(replay.state_dict())
    obs = record.batched([record.Step(0, 0, 0, 0, 0.0, (1, 1, 1), False, False)] * 2, 0)
    fresh = HindsightReplay(record.task(), 20)
    with pytest.raises(
        ValueError, match=r"`obs\['achieved_goal'\]` must have the shape \(1, 3\); got \(2, 3\)"
    ):
        fresh.add(obs, 0, 0.0, obs, terminated=False, truncated=False)
    one = record.Step(0, 0, 0, 0, 0.0, (1, 1, 1), False, False).obs(0)
    with pytest.raises(ValueError, match="`infos` must be given with `copy_info`"):
        copying.add(one, 0, 0.0, one, terminated=False, truncated=False)


def test_priorities_must_be_numbers_of_at_least_0() -> None:
    replay, _ = one_episode(3, "prioritised")
    for wrong in ([-1.0], [np.nan], [np.inf], [1.0, 2.0]):
        with pytest.raises(ValueError, match="`priority` must be 1 finite numbers of at least 0"):
            replay.update_priorities(np.zeros(1, int), wrong)


def test_goals_are_drawn_by_their_priorities() -> None:
    replay, _ = one_episode(4, "prioritised", n_sampled_goal=1e6)
    replay.update_priorities(np.arange(4), [1.0, 0.0, 3.0, 4.0])
    batch = replay.sample(40_000)
    t, goal = batch.obs["achieved_goal"][:, 2], batch.obs["desired_goal"][:, 2]
    weight = np.array([1.0, 0.0, 3.0, 4.0]) ** 0.6
    for step in range(4):
        expected = np.concatenate([np.zeros(step + 1), weight[step:] / weight[step:].sum()])
        np.testing.assert_allclose(
            np.bincount(goal[t == step], minlength=5) / (t == step).sum(), expected, atol=0.03
        )
    assert set(batch.goal_row.tolist()) == {0, 2, 3}


def test_a_new_step_has_the_highest_priority_so_far() -> None:
    replay, plain = one_episode(3, "prioritised")
    replay.update_priorities(np.array([0]), [5.0])
    play(replay, plain, [[2]])
    assert replay.priorities is not None
    assert replay.priorities[:5].tolist() == [5.0, 1.0, 1.0, 5.0, 5.0]
    replay.update_priorities(np.array([0]), [0.5])
    play(replay, plain, [[1]])
    assert replay.priorities[:6].tolist() == [0.5, 1.0, 1.0, 5.0, 5.0, 5.0]


def test_a_copy_is_whole_and_its_own() -> None:
    replay, plain = one_episode(3, "future")
    copied = copy.deepcopy(replay)
    rng = copied.rng.bit_generator.state
    first = replay.sample(20)
    other = record.Record(1)
    other.__dict__.update(copy.deepcopy(plain.__dict__))
    play(copied, other, [[2, 4]])
    check_batch(copied.sample(200), other, 20)
    assert len(replay) == 3
    replay.rng.bit_generator.state = rng
    for one, two in zip(replay.sample(20), first, strict=True):
        np.testing.assert_equal(one, two)


def test_what_is_forgotten_is_not_sampled() -> None:
    replay, _ = one_episode(3, "future")
    replay.clear()
    assert len(replay) == 0
    plain = record.Record(1)
    play(replay, plain, [[2]], seed=5)
    check_batch(replay.sample(50), plain, 20)


def test_arrays_that_are_not_contiguous_are_stored_alike() -> None:
    plain = record.Record(2)
    replay, other = (HindsightReplay(record.task(), 9, n_envs=2) for _ in range(2))
    rng = np.random.default_rng(0)
    for t in range(4):
        rows = [plain.play(env, rng, terminated=False, truncated=t == 3) for env in range(2)]
        before, after = record.batched(rows, 0), record.batched(rows, 1)
        strided = [
            {key: np.repeat(part, 2, axis=0)[::2] for key, part in one.items()} for one in (before, after)
        ]
        for one, pair in ((replay, (before, after)), (other, strided)):
            ends = {"terminated": [False] * 2, "truncated": [t == 3] * 2}
            one.add(pair[0], [row.action for row in rows], [row.reward for row in rows], pair[1], **ends)
    for one, two in zip(replay.sample(20), other.sample(20), strict=True):
        np.testing.assert_equal(one, two)

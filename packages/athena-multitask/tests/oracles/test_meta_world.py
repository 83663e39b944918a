"""Meta-World against its own package, and against the pitfalls that are known of it (numbers 13 to 19)."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import metaworld
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, ML10_V3, ML45_V3, MT10_V3, MT50_V3

from athena_core import load_checkpoint, save_checkpoint
from athena_multitask import MetaWorld, evaluate_success
from athena_multitask._meta_world_tasks import benchmark_tasks

DIGEST = """
import sys, numpy
numpy.random.seed(int(sys.argv[1]))
from test_meta_world import digest
print(digest())
"""


def one(name: str = "MT1", **options: Any) -> MetaWorld:
    return MetaWorld(name, **{"task": "reach-v3", "seed": 0, "n_goals": 4, **options})


def inside(envs: MetaWorld) -> list[Any]:
    """The environments of single tasks."""
    return list(envs.envs)


def actions_of(envs: MetaWorld, steps: int, *, seed: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, (envs.num_envs, 4)).astype(np.float32) for _ in range(steps)]


def played(envs: MetaWorld, actions: list[np.ndarray]) -> list[Any]:
    """Observations, rewards, ends and goals of these steps, as plain numbers."""
    steps = [envs.step(action) for action in actions]
    return [
        (o.tolist(), r.tolist(), truncated.tolist(), i["goal"].tolist()) for o, r, _, truncated, i in steps
    ]


def digest() -> str:
    """What goals and observations come from a seed, in few letters."""
    found = hashlib.sha256()
    envs = MetaWorld("MT1", task="push-v3", seed=7, n_goals=10, max_episode_steps=4)
    found.update(envs.task_goals[0].tobytes())
    found.update(envs.reset()[0].tobytes())
    for action in actions_of(envs, 10):
        found.update(envs.step(action)[0].tobytes())
    found.update(envs.sample_tasks()[0].tobytes())
    found.update(envs.action_space.sample().tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def mt10() -> Iterator[MetaWorld]:
    envs = MetaWorld("MT10", seed=0, n_goals=6, max_episode_steps=8)
    yield envs
    envs.close()


def test_pitfall_13_the_code_of_the_task_is_there_unasked(mt10: MetaWorld) -> None:
    observations, _ = mt10.reset()
    assert observations.shape == mt10.observation_space.shape == (10, 39 + 10)
    assert np.array_equal(observations[:, 39:], np.eye(10))
    assert np.array_equal(mt10.step(actions_of(mt10, 1)[0])[0][:, 39:], np.eye(10))
    assert observations.dtype == np.float32
    assert mt10.observation_space.contains(observations)


def test_pitfall_13_a_single_task_has_a_code_only_if_asked() -> None:
    assert one().single_observation_space.shape == (39,)
    assert one(one_hot=True).reset()[0][:, 39:].tolist() == [[1.0]]
    assert one("ML1").single_observation_space.shape == (39,)


def test_pitfall_14_train_and_test_goals_of_ml1_are_disjoint() -> None:
    train, test = (one("ML1", split=split, n_goals=50).task_goals[0] for split in ("train", "test"))
    assert len(train) == len(test) == 50
    assert len({goal.tobytes() for goal in [*train, *test]}) == 100
    assert np.array_equal(train, one("MT1", n_goals=50).task_goals[0])  # train is train


def test_pitfall_14_train_and_test_tasks_of_ml10_are_disjoint() -> None:
    test = MetaWorld("ML10", seed=0, split="test", n_goals=2)
    names = benchmark_tasks("ML10", task=None, split="train")
    assert test.task_names == tuple(ML10_V3["test"])
    assert names == tuple(ML10_V3["train"])
    assert not set(names) & set(test.task_names)
    classes = [type(env.simulator) for env in inside(test)]
    assert classes == [ALL_V3_ENVIRONMENTS[name] for name in test.task_names]


def test_the_tasks_are_those_of_the_benchmarks_in_their_order(mt10: MetaWorld) -> None:
    assert mt10.task_names == tuple(MT10_V3)
    assert benchmark_tasks("MT50", task=None, split="train") == tuple(MT50_V3)
    for split in ("train", "test"):
        assert benchmark_tasks("ML45", task=None, split=split) == tuple(ML45_V3[split])


def test_pitfall_15_the_same_seed_gives_the_same_in_another_process() -> None:
    command = [sys.executable, "-c", DIGEST, "123"]
    folder = Path(__file__).parent
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    assert run.stdout.strip() == digest()


def test_pitfall_15_a_reset_with_a_seed_begins_the_order_again() -> None:
    envs = one(n_goals=50, max_episode_steps=1)
    first, _ = envs.reset()
    expected = [first.tolist(), played(envs, actions_of(envs, 3))]
    again, _ = envs.reset(seed=0)
    assert [again.tolist(), played(envs, actions_of(envs, 3))] == expected
    assert np.array_equal(envs.reset(seed=np.int64(0))[0], first)
    assert np.array_equal(one(seed=np.int64(0), n_goals=50).reset()[0], first)
    other = [envs.reset(seed=[seed])[1]["goal"][0] for seed in range(8)]
    assert len(set(other)) > 1
    assert not np.array_equal(envs.task_goals[0], one(seed=1, n_goals=50).task_goals[0])


def test_pitfall_15_numpys_global_generator_is_neither_read_nor_moved() -> None:
    goals = []
    for seed in (1, 2):
        np.random.seed(seed)
        expected = np.random.random()
        np.random.seed(seed)
        envs = one(max_episode_steps=1)
        envs.reset(seed=3)
        envs.step(actions_of(envs, 1)[0])
        envs.sample_tasks()
        assert np.random.random() == expected
        goals.append(envs.task_goals[0])
    assert np.array_equal(goals[0], goals[1])


def test_a_task_has_the_same_goals_in_every_benchmark(mt10: MetaWorld) -> None:
    index = mt10.task_names.index("push-v3")
    assert np.array_equal(mt10.task_goals[index], one(task="push-v3", n_goals=6).task_goals[0])


def test_goals_lie_where_the_package_draws_its_own() -> None:
    envs = one(n_goals=50)
    space = inside(envs)[0].simulator._random_reset_space
    ours = envs.task_goals[0]
    assert ((space.low <= ours) & (ours <= space.high)).all()
    assert (np.linalg.norm(ours[:, :2] - ours[:, 3:5], axis=1) >= 0.15).all()  # which the task refuses
    # 50 of ours and 50 of its: means differ by less than four standard errors of a uniform number.
    theirs = metaworld.MT1("reach-v3", seed=0).train_tasks
    simulator = ALL_V3_ENVIRONMENTS["reach-v3"]()
    drawn = []
    for task in theirs:
        simulator.set_task(task)
        drawn.append(simulator._last_rand_vec)
    width = space.high - space.low
    assert (
        np.abs(ours.mean(0) - np.mean(drawn, 0)) <= 4 * width / np.sqrt(12) * np.sqrt(2 / 50) + 1e-12
    ).all()


def test_an_episode_equals_the_packages_own() -> None:
    envs = one(task="push-v3")
    simulator = ALL_V3_ENVIRONMENTS["push-v3"]()
    kwargs = {"env_cls": type(simulator), "partially_observable": False}
    for index, goal in enumerate(envs.task_goals[0]):
        simulator.set_task(metaworld._encode_task("push-v3", {**kwargs, "rand_vec": goal}))
        expected, _ = simulator.reset()
        assert np.array_equal(envs.reset(options={"goal": index})[0][0], expected.astype(np.float32))
        for action in actions_of(envs, 20):
            expected, reward, *_ = simulator.step(action[0])
            observations, rewards, *_ = envs.step(action)
            assert np.array_equal(observations[0], expected.astype(np.float32))
            assert rewards[0] == reward


@pytest.mark.parametrize(("name", "shown"), [("MT1", True), ("ML1", False)])
def test_multi_task_shows_the_goal_and_meta_learning_hides_it(name: str, shown: bool) -> None:
    envs = one(name, task="reach-v3")
    for observations in (envs.reset()[0], envs.step(actions_of(envs, 1)[0])[0]):
        goal = envs.task_goals[0][inside(envs)[0].goal][3:]
        assert np.allclose(observations[0, 36:39], goal if shown else 0.0, atol=1e-6)


def test_pitfall_17_evaluation_visits_all_50_goals() -> None:
    envs = one(n_goals=50, max_episode_steps=1)
    seen: list[np.ndarray] = []

    def policy(observations: np.ndarray) -> np.ndarray:
        seen.append(observations[0, 36:39])
        return np.zeros((1, 4))

    report = evaluate_success(policy, envs)
    assert sorted(episode.goal for episode in report.tasks["reach-v3"].episodes) == list(range(50))
    assert len({goal.tobytes() for goal in seen}) == 50


def test_pitfall_17_goals_in_a_cycle_are_all_visited() -> None:
    envs = one(n_goals=10, goals="cycle", max_episode_steps=1)
    goals = [envs.reset()[1]["goal"][0]]
    goals += [envs.step(action)[4]["goal"][0] for action in actions_of(envs, 10)]
    assert goals == [*range(10), 0]


@pytest.mark.parametrize("steps", [0, 5, 8, 13])  # at the start, within, at and after an end
def test_pitfall_18_resumed_equals_uninterrupted(mt10: MetaWorld, tmp_path: Path, steps: int) -> None:
    mt10.reset(seed=3)
    actions = actions_of(mt10, steps + 6)
    before = [observations for observations, *_ in played(mt10, actions[:steps])]
    save_checkpoint(tmp_path / "envs.pt", mt10.state_dict())
    expected, drawn = played(mt10, actions[steps:]), mt10.action_space.sample()
    mt10.reset(seed=4)
    played(mt10, actions[:3])
    observations = mt10.load_state_dict(load_checkpoint(tmp_path / "envs.pt"))
    assert steps == 0 or observations.tolist() == before[-1]
    assert played(mt10, actions[steps:]) == expected
    assert np.array_equal(mt10.action_space.sample(), drawn)


def test_pitfall_18_a_new_one_goes_on_as_well_and_each_keeps_its_goals() -> None:
    envs = one(n_goals=50, task="drawer-open-v3", max_episode_steps=6)
    envs.reset()
    actions = actions_of(envs, 18)
    played(envs, actions[:9])
    state = envs.state_dict()
    expected = played(envs, actions[9:])
    other = one(n_goals=50, task="drawer-open-v3", max_episode_steps=6)
    other.load_state_dict(state)
    assert played(other, actions[9:]) == expected


def test_pitfall_18_states_are_told_apart(mt10: MetaWorld) -> None:
    mt10.reset()
    states = mt10.state_dict()["environments"]
    assert [state["task"] for state in states] == list(MT10_V3)
    assert len({state["goals"].numpy().tobytes() for state in states}) == 10
    envs = one()
    for other, words in [
        (one(task="push-v3"), "`state` must be of reach-v3; got push-v3"),
        (one(seed=1), "`state` must have the goals of reach-v3 here; got others"),
        (one("ML1"), "`state` must have name 'MT1'; got 'ML1'"),
        (one(reward_version="v1"), "`state` must have reward_version 'v2'; got 'v1'"),
        (one(max_episode_steps=9), "`state` must have max_episode_steps 500; got 9"),
    ]:
        with pytest.raises(ValueError, match=words):
            envs.load_state_dict(other.state_dict())
    assert not envs.load_state_dict(one().state_dict()).any()  # not yet reset


def test_pitfall_18_the_packages_number_of_goals_is_left_alone(mt10: MetaWorld) -> None:
    assert mt10.n_goals == 6
    assert metaworld._N_GOALS == 50


def test_pitfall_19_the_version_of_the_reward_is_recorded_and_matters() -> None:
    rewards = {}
    for version in ("v1", "v2"):
        envs = one(reward_version=version, max_episode_steps=2)
        report = evaluate_success(lambda observations: np.zeros((1, 4)), envs, goals=[0])
        assert report.reward_version == envs.state_dict()["reward_version"] == version
        assert report.metaworld_version == envs.metaworld_version
        rewards[version] = report.tasks["reach-v3"].mean_return
    assert rewards["v1"] != rewards["v2"]


def test_episodes_are_truncated_and_never_terminate(mt10: MetaWorld) -> None:
    mt10.reset()
    assert mt10.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    *actions, last = actions_of(mt10, 8)
    for action in actions:
        _, _, terminated, truncated, _ = mt10.step(action)
        assert not (terminated | truncated).any()
    observations, _, terminated, truncated, infos = mt10.step(last)
    assert truncated.all()
    assert not terminated.any()
    assert set(infos["final_info"]) >= {"success", "goal"}
    assert all(len(final) == 49 for final in infos["final_obs"])
    assert not np.array_equal(np.stack(infos["final_obs"]), observations)


def test_a_held_task_stays_until_others_are_sampled() -> None:
    envs = one("ML1", n_goals=50, max_episode_steps=1)
    held = {envs.reset()[1]["goal"][0], *(envs.step(a)[4]["goal"][0] for a in actions_of(envs, 3))}
    sampled = [envs.sample_tasks()[1]["goal"][0] for _ in range(4)]
    assert len(held) == 1
    assert len(set(sampled)) > 1
    assert envs.reset()[1]["goal"][0] == sampled[-1]


@pytest.mark.filterwarnings("ignore:.*A Box observation space (minimum|maximum) value is -?infinity")
def test_gymnasiums_own_check() -> None:
    check_env(one().envs[0], skip_render_check=True, skip_close_check=True)


def test_a_step_needs_a_reset_and_finite_actions() -> None:
    envs = one(max_episode_steps=2)
    with pytest.raises(ResetNeeded, match="`reach-v3` must be reset before a step"):
        envs.step(np.zeros((1, 4)))
    envs.reset()
    with pytest.raises(ValueError, match=r"`action` must be finite; got \[nan .* for reach-v3"):
        envs.step(np.full((1, 4), np.nan))
    with pytest.raises(ValueError, match=r"`goal` must lie in \[0, 3\]; got 4"):
        envs.reset(options={"goal": 4})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "MT9"}, "`name` must be one of MT1, .*; got 'MT9'"),
        ({"name": "MT1", "task": "reach-v2"}, "`task` must be one of assembly-v3, .*; got 'reach-v2'"),
        ({"name": "MT10", "task": "reach-v3"}, "`task` must be left out for MT10; got 'reach-v3'"),
        ({"name": "MT10", "split": "test"}, '`split` must be "train" for MT10'),
        ({"name": "ML10", "split": "all"}, "`split` must be .*; got 'all'"),
        ({"name": "MT10", "seed": -1}, "`seed` must be at least 0; got -1"),
        ({"name": "MT10", "n_goals": 0}, "`n_goals` must be at least 1; got 0"),
        ({"name": "MT10", "reward_version": "v3"}, "`reward_version` must be .*; got 'v3'"),
        ({"name": "MT10", "max_episode_steps": 501}, r"`max_episode_steps` must lie in \[1, 500\]; got 501"),
        ({"name": "MT1", "task": "reach-v3", "goals": "all"}, "`goals` must be .*; got 'all'"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MetaWorld(**{"seed": 0, **options})

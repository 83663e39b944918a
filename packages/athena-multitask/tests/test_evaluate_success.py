"""Success is counted on scripted environments: by any step, each environment having its own quota."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athena_multitask import Episode, evaluate_success
from athena_multitask._evaluate_success import plan_goals
from athena_multitask._success_report import wilson_interval


class Scripted:
    """An environment of which is known in which steps of a goal's episode it succeeds."""

    action_space = SimpleNamespace(shape=(4,))

    def __init__(self, successes: dict[int, set[int]], *, length: int = 10) -> None:
        self.successes, self.length, self.visited = successes, length, []

    def reset(self, *, options: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        self.goal, self.t = options["goal"], 0
        self.visited.append(self.goal)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.t < self.length, "stepped beyond its end"
        self.t += 1
        success = self.t in self.successes.get(self.goal, set())
        return self._observation(), 1.0, False, self.t == self.length, {"success": success}

    def _observation(self) -> np.ndarray:
        return np.array([self.goal, self.t], np.float32)


def together(*envs: Scripted, tasks: list[str], n_goals: int = 3) -> Any:
    made = {"name": "MT", "split": "train", "reward_version": "v1", "metaworld_version": "3.1.1"}
    return SimpleNamespace(
        **made, envs=envs, task_names=tasks, n_goals=n_goals, max_episode_steps=envs[0].length
    )


def still(observations: np.ndarray) -> np.ndarray:
    return np.zeros((len(observations), 4))


def test_success_is_that_of_any_step() -> None:  # pitfall 16
    env = Scripted({0: {4}, 1: {10}, 2: set()})  # in the middle, in the last step, never
    report = evaluate_success(still, together(env, tasks=["a"]), full_episodes=True)
    assert [episode.success for episode in report.tasks["a"].episodes] == [True, True, False]
    assert [episode.steps for episode in report.tasks["a"].episodes] == [10, 10, 10]
    assert report.success == pytest.approx(2 / 3)


def test_stopping_at_a_success_changes_returns_alone() -> None:
    env = Scripted({0: {4}, 1: {10}, 2: set()})
    report = evaluate_success(still, together(env, tasks=["a"]))
    assert report.tasks["a"].episodes == (
        Episode(0, True, 4.0, 4),
        Episode(1, True, 10.0, 10),
        Episode(2, False, 10.0, 10),
    )
    assert report.tasks["a"].mean_return == 8.0


def test_a_fast_success_does_not_fill_the_quota_of_the_others() -> None:  # pitfall 16
    fast, slow = Scripted({goal: {1} for goal in range(3)}), Scripted({})
    report = evaluate_success(still, together(fast, slow, tasks=["a", "a"]), episodes_per_goal=2)
    assert report.success == report.tasks["a"].success == 0.5  # counted together it would be near 1
    assert fast.visited == slow.visited == [0, 1, 2, 0, 1, 2]


def test_every_goal_is_visited_as_often() -> None:  # pitfall 17
    env = Scripted({}, length=2)
    evaluate_success(still, together(env, tasks=["a"], n_goals=50), episodes_per_goal=2)
    assert np.bincount(env.visited).tolist() == [2] * 50


def test_rows_keep_their_places_when_others_are_done() -> None:
    seen: list[np.ndarray] = []

    def policy(observations: np.ndarray) -> torch.Tensor:
        seen.append(observations)
        return torch.zeros(len(observations), 4)

    fast, slow = Scripted({goal: {1} for goal in range(3)}), Scripted({}, length=5)
    report = evaluate_success(policy, together(fast, slow, tasks=["a", "b"]))
    assert len(seen) == 15  # as many as the slow one needs
    assert {observations.shape for observations in seen} == {(2, 2)}
    assert [row[1].tolist() for row in seen[:6]] == [[0, t] for t in range(5)] + [[1, 0]]
    assert (report.tasks["a"].success, report.tasks["b"].success) == (1.0, 0.0)


def test_the_report_records_its_rules_as_plain_data() -> None:  # pitfall 19
    report = evaluate_success(still, together(Scripted({0: {1}}), tasks=["a"]), goals=[2, 0], level=0.9)
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    rules = {key: plain[key] for key in ("protocol", "reward_version", "metaworld_version", "split")}
    assert rules == {
        "protocol": "athena-1", "reward_version": "v1", "metaworld_version": "3.1.1", "split": "train"
    }  # fmt: skip
    assert (plain["goals"], plain["level"], plain["max_episode_steps"]) == ([2, 0], 0.9, 10)
    assert plain["tasks"]["a"]["episodes"][1] == {"goal": 0, "success": True, "total_reward": 1.0, "steps": 1}


def test_intervals_hold_the_share_and_one_episode_tells_nothing() -> None:
    env = Scripted({goal: {1} for goal in range(0, 50, 2)}, length=2)
    report = evaluate_success(still, together(env, tasks=["a"], n_goals=50))
    assert report.low < report.success == 0.5 < report.high
    assert 0.3 < report.low < report.high < 0.7
    once = evaluate_success(still, together(env, tasks=["a"]), goals=[0])
    assert (once.success, once.low, once.high) == (1.0, 0.0, 1.0)


@given(st.integers(1, 200), st.data())
def test_wilsons_ends_are_where_the_share_is_just_not_refused(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = wilson_interval(successes, trials, level=0.95)
    share = successes / trials
    assert 0 <= low <= share <= high <= 1
    for end in {low, high} - {0.0, 1.0}:  # |p - q| = z sqrt(q (1 - q) / n), which defines the ends q
        assert abs(share - end) == pytest.approx(
            1.959964 * (end * (1 - end) / trials) ** 0.5, rel=1e-4, abs=1e-9
        )


def test_golden_wilson() -> None:
    assert wilson_interval(0, 10, level=0.95) == pytest.approx((0.0, 0.2775), abs=1e-4)  # z^2 / (n + z^2)


def test_a_plan_repeats_the_chosen_goals() -> None:
    assert plan_goals(50, goals=[4, 1], episodes_per_goal=2) == [4, 1, 4, 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"goals": [3]}, r"`goals` must be different indices in \[0, 2\], one at least; got \[3\]"),
        ({"goals": [-1]}, "`goals` must be"),
        ({"goals": [1, 1]}, "`goals` must be"),
        ({"goals": []}, "`goals` must be"),
        ({"episodes_per_goal": 0}, "`episodes_per_goal` must be at least 1; got 0"),
        ({"level": 1.5}, "`level` must"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate_success(still, together(Scripted({}, length=1), tasks=["a"]), **options)


def test_bad_actions_and_environments() -> None:
    envs = together(Scripted({}), tasks=["a"])
    with pytest.raises(ValueError, match=r"`policy` must return actions of \(1, 4\); got \(4,\)"):
        evaluate_success(lambda observations: np.zeros(4), envs)
    uneven = together(Scripted({}), Scripted({}), Scripted({}), tasks=["a", "a", "b"])
    with pytest.raises(ValueError, match=r"as many environments of each task; got \{'a': 2, 'b': 1\}"):
        evaluate_success(still, uneven)

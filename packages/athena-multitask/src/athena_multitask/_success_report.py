"""What an evaluation of success found, and the intervals of shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist, fmean
from typing import Any

import numpy as np

from athena_core.stats import Interval, bootstrap_interval


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode of an evaluation.

    Args:
        goal: the index of its goal.
        success: any of its steps succeeded.
        total_reward: its return, without discount, up to where it was stopped.
        steps: its length.

    >>> Episode(goal=3, success=True, total_reward=12.5, steps=40).success
    True
    """

    goal: int
    success: bool
    total_reward: float
    steps: int


@dataclasses.dataclass(frozen=True)
class TaskSuccess:
    """The successes of one task: their share with its interval, the mean return, and every episode.

    >>> TaskSuccess(success=1.0, low=0.2, high=1.0, mean_return=5.0, episodes=()).success
    1.0
    """

    success: float
    low: float
    high: float
    mean_return: float
    episodes: tuple[Episode, ...]


@dataclasses.dataclass(frozen=True)
class SuccessReport:
    """What `evaluate_success` found, and all that it depends on.

    Args:
        protocol: the rules by which it was counted; a change of theirs changes the name.
        benchmark, split, metaworld_version, reward_version, max_episode_steps: of the environments.
        goals, episodes_per_goal, full_episodes, level: as given.
        success, low, high: the mean over the tasks, with its interval.
        tasks: by name.

    >>> from athena_multitask import MetaWorld, evaluate_success, scripted_policy
    >>> envs = MetaWorld("MT1", task="reach-v3", seed=0)
    >>> report = evaluate_success(scripted_policy("reach-v3"), envs, goals=[0, 1])
    >>> report.success, report.to_dict()["protocol"]
    (1.0, 'athena-1')
    """

    protocol: str
    benchmark: str
    split: str
    metaworld_version: str
    reward_version: str
    max_episode_steps: int
    goals: tuple[int, ...]
    episodes_per_goal: int
    full_episodes: bool
    level: float
    success: float
    low: float
    high: float
    tasks: dict[str, TaskSuccess]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON takes it."""
        return dataclasses.asdict(self)


def mean_success(episodes: Sequence[Sequence[Episode]], *, level: float) -> Interval:
    """The mean over environments, whose episodes are drawn anew each on its own; one episode tells nothing.

    >>> mean_success([[Episode(0, True, 3.0, 2)], [Episode(0, False, 1.0, 5)]], level=0.95)
    Interval(estimate=0.5, low=0.0, high=1.0)
    """
    outcomes = np.array([[float(episode.success) for episode in own] for own in episodes]).T
    if len(outcomes) == 1:
        return Interval(float(outcomes.mean()), 0.0, 1.0)
    return bootstrap_interval(outcomes, rng=0, statistic=np.mean, level=level)


def task_success(episodes: Sequence[Episode], *, level: float) -> TaskSuccess:
    """The episodes of one task, counted.

    >>> found = task_success([Episode(0, True, 3.0, 2), Episode(1, False, 1.0, 5)], level=0.95)
    >>> found.success, found.mean_return
    (0.5, 2.0)
    """
    successes = sum(episode.success for episode in episodes)
    low, high = wilson_interval(successes, len(episodes), level=level)
    mean_return = fmean(episode.total_reward for episode in episodes)
    return TaskSuccess(successes / len(episodes), low, high, mean_return, tuple(episodes))


def wilson_interval(successes: int, trials: int, *, level: float) -> tuple[float, float]:
    r"""Ends of the score interval of a share :math:`p = x / n`, which has a width at 0 and 1 too.

    .. math:: \frac{1}{1 + z^2 / n} \left( p + \frac{z^2}{2n} \pm z \sqrt{\frac{p (1 - p)}{n}
        + \frac{z^2}{4 n^2}} \right)

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference. Departs from
    it: no.

    >>> [round(end, 3) for end in wilson_interval(50, 50, level=0.95)]
    [0.929, 1.0]
    """
    z, p = NormalDist().inv_cdf((1 + level) / 2), successes / trials
    centre, half = p + z * z / (2 * trials), z * sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low, high = (centre - half) / scale, (centre + half) / scale
    return max(0.0, min(low, p)), min(1.0, max(high, p))  # at 0 and 1 an end is the share, but for rounding

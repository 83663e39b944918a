"""How often a policy succeeds on every goal of every task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from athena_multitask._success_report import Episode, SuccessReport, mean_success, task_success

PROTOCOL = "athena-1"
Policy = Callable[[NDArray[np.float32]], Any]


class GoalEnvironments(Protocol):
    """What is asked of environments: those of `MetaWorld`, or others that take a goal by its index.

    Each of ``envs`` is a Gymnasium environment whose ``reset(options={"goal": index})`` takes that goal, and
    whose steps say ``info["success"]``.

    >>> class Two:
    ...     name, split, reward_version, metaworld_version = "two", "train", "v2", "3.1.1"
    ...     task_names, n_goals, max_episode_steps, envs = ("a", "b"), 50, 500, []
    >>> environments: GoalEnvironments = Two()
    """

    @property
    def name(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def reward_version(self) -> str: ...
    @property
    def metaworld_version(self) -> str: ...
    @property
    def task_names(self) -> Sequence[str]: ...
    @property
    def n_goals(self) -> int: ...
    @property
    def max_episode_steps(self) -> int: ...
    @property
    def envs(self) -> Sequence[Any]: ...


def evaluate_success(
    policy: Policy,
    envs: GoalEnvironments,
    *,
    goals: Sequence[int] | None = None,
    episodes_per_goal: int = 1,
    full_episodes: bool = False,
    level: float = 0.95,
) -> SuccessReport:
    r"""Share of episodes with success, each goal of each environment having as many.

    .. math:: s_{\text{task}} = \frac{1}{|G| k} \sum_{g \in G} \sum_{i=1}^{k} \max_t\, [\text{success}_t],
        \qquad s = \frac{1}{n} \sum_{\text{task}} s_{\text{task}}

    Every environment runs its own list of :math:`|G| k` episodes: where several share a task, one that
    succeeds fast runs no more of them than one that fails slowly. Those that are done are not stepped.

    Environments are left where they stopped: give it some of its own, or reset them before training goes on.

    Args:
        policy: actions ``(n, 4)``, an array or a tensor on the CPU, from observations ``(n, d)`` of all
            environments, whose row is always the same; rows of environments that are done stay as they are.
        envs: a `MetaWorld`.
        goals: indices of the goals; None: all.
        episodes_per_goal: of each goal, in each environment.
        full_episodes: go on after the first success, which changes returns and no success.
        level: of the intervals. A task's is Wilson's; the mean's is `athena_core.stats.bootstrap_interval`
            over episodes, for each environment on its own, so it has no width where all agree. They speak of
            this policy on new goals; a method's spread is that of several seeds.

    Raises ValueError for a goal that is not there, no episodes, actions of another shape, or tasks with
    different numbers of environments.

    Source: Yu et al. 2019, arXiv:1910.10897 (success rates). Departs from it: each goal has the
    same number of episodes, instead of drawn ones.

    >>> from athena_multitask import MetaWorld
    >>> envs = MetaWorld("MT1", task="reach-v3", seed=0, max_episode_steps=5)
    >>> evaluate_success(lambda observations: np.zeros((1, 4)), envs, goals=[0]).success
    0.0
    """
    plan = plan_goals(envs.n_goals, goals=goals, episodes_per_goal=episodes_per_goal)
    counts = Counter(envs.task_names)
    if len(set(counts.values())) != 1:
        raise ValueError(
            f"`envs` must have as many environments of each task; got {dict(counts)}. Add the rest."
        )
    episodes = run_episodes(policy, envs.envs, plan, full_episodes=full_episodes)
    by_task: dict[str, list[Episode]] = {name: [] for name in envs.task_names}
    for name, own in zip(envs.task_names, episodes, strict=True):
        by_task[name] += own
    success, low, high = mean_success(episodes, level=level)
    return SuccessReport(
        protocol=PROTOCOL,
        benchmark=envs.name,
        split=envs.split,
        metaworld_version=envs.metaworld_version,
        reward_version=envs.reward_version,
        max_episode_steps=envs.max_episode_steps,
        goals=tuple(dict.fromkeys(plan)),
        episodes_per_goal=episodes_per_goal,
        full_episodes=full_episodes,
        level=level,
        success=success,
        low=low,
        high=high,
        tasks={name: task_success(own, level=level) for name, own in by_task.items()},
    )


def plan_goals(n_goals: int, *, goals: Sequence[int] | None, episodes_per_goal: int) -> list[int]:
    """The goals of an environment's episodes: all of them, then all again.

    >>> plan_goals(3, goals=None, episodes_per_goal=2)
    [0, 1, 2, 0, 1, 2]
    """
    if episodes_per_goal < 1:
        raise ValueError(f"`episodes_per_goal` must be at least 1; got {episodes_per_goal}. Take 1.")
    chosen = list(range(n_goals)) if goals is None else [int(goal) for goal in goals]
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= goal < n_goals for goal in chosen):
        raise ValueError(
            f"`goals` must be different indices in [0, {n_goals - 1}], one at least; got {chosen}. "
            "Leave it out for all."
        )
    return chosen * episodes_per_goal


def run_episodes(
    policy: Policy, envs: Sequence[Any], plan: Sequence[int], *, full_episodes: bool
) -> list[list[Episode]]:
    """Every environment's episodes, one for each goal of the plan."""
    runs = [_Running(env, list(plan), full_episodes=full_episodes) for env in envs]
    while any(run.goals for run in runs):
        observations = np.stack([run.observation for run in runs])
        actions = np.asarray(policy(observations), dtype=np.float32)
        expected = (len(runs), *envs[0].action_space.shape)
        if actions.shape != expected:
            raise ValueError(f"`policy` must return actions of {expected}; got {actions.shape}. One a row.")
        for run, action in zip(runs, actions, strict=True):
            if run.goals:
                run.step(action)
    return [run.episodes for run in runs]


class _Running:
    """An environment in the course of its episodes."""

    def __init__(self, env: Any, goals: list[int], *, full_episodes: bool) -> None:
        self.env, self.goals, self.full_episodes = env, goals, full_episodes
        self.episodes: list[Episode] = []
        self._begin()

    def step(self, action: NDArray[np.float32]) -> None:
        self.observation, reward, terminated, truncated, info = self.env.step(action)
        self.total_reward += float(reward)
        self.steps += 1
        self.success = self.success or bool(info["success"])  # of any step: the last may have left the goal
        if terminated or truncated or (self.success and not self.full_episodes):
            self.episodes.append(Episode(self.goals.pop(0), self.success, self.total_reward, self.steps))
            if self.goals:
                self._begin()

    def _begin(self) -> None:
        self.observation, _ = self.env.reset(options={"goal": self.goals[0]})
        self.total_reward, self.steps, self.success = 0.0, 0, False

"""A plain record of episodes, against which replay is checked: lists, loops, and no ring."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from athena_hrl import GoalTask

ACTIONS = spaces.Discrete(1000)
WHOLE = spaces.Box(-(2**20), 2**20, (3,), np.int64)
SPACE = spaces.Dict(
    {
        "observation": spaces.Box(-1e6, 1e6, (2, 2), np.float32),
        "achieved_goal": WHOLE,
        "desired_goal": WHOLE,
    }
)


class Step(NamedTuple):
    """A transition as it was added, and where it was."""

    env: int
    episode: int
    t: int  # in its episode
    action: int
    reward: float
    desired: tuple[int, ...]
    terminated: bool
    truncated: bool

    def achieved(self, after: int) -> tuple[int, ...]:
        """The goal achieved before it (0) and after it (1): no other episode has it."""
        return (self.env, self.episode, self.t + after)

    def obs(self, after: int) -> dict[str, Any]:
        place = np.array([[self.env, self.episode], [self.t + after, 7.5]], np.float32)
        return {"observation": place, "achieved_goal": self.achieved(after), "desired_goal": self.desired}


def reward_of_one(achieved: Any, desired: Any, info: Any) -> float:
    """Of one transition alone: it fails for many."""
    if all(int(a) == int(g) for a, g in zip(achieved, desired, strict=True)):
        return 0.0
    return -1.0 - 0.125 * (int(achieved[0]) + 2 * int(desired[2])) + info.get("bonus", 0.0)


def reward_of_many(achieved: Any, desired: Any, info: Any) -> Any:
    """The same of any number."""
    missed = -1.0 - 0.125 * (achieved[..., 0] + 2 * desired[..., 2])
    bonus = [one.get("bonus", 0.0) for one in info] if isinstance(info, list) else info.get("bonus", 0.0)
    return np.where((achieved == desired).all(axis=-1), 0.0, missed + bonus)


def ended_of_one(achieved: Any, desired: Any, info: Any) -> bool:
    return all(int(a) == int(g) for a, g in zip(achieved, desired, strict=True))


def ended_of_many(achieved: Any, desired: Any, info: Any) -> Any:
    return (achieved == desired).all(axis=-1)


def task(*, at_once: bool = True, terminates: bool = True) -> GoalTask:
    """The task of the record, with functions of many or of one."""
    reward, ended = (reward_of_many, ended_of_many) if at_once else (reward_of_one, ended_of_one)
    return GoalTask(SPACE, ACTIONS, compute_reward=reward, compute_terminated=ended if terminates else None)


class Record:
    """All steps of all environments, in the order in which they were added."""

    def __init__(self, n_envs: int) -> None:
        self.steps: list[list[Step]] = [[] for _ in range(n_envs)]
        self._episode, self._t = [0] * n_envs, [0] * n_envs

    def play(self, env: int, rng: np.random.Generator, *, terminated: bool, truncated: bool) -> Step:
        """The next step of an environment."""
        episode, t = self._episode[env], self._t[env]
        desired = (-1 - env, -episode, int(rng.integers(4)))
        step = Step(
            env, episode, t, int(rng.integers(1000)), -float(rng.integers(9)), desired, terminated, truncated
        )
        self.steps[env].append(step)
        self._t[env] += 1
        if terminated or truncated:
            self._episode[env], self._t[env] = episode + 1, 0
        return step

    def episodes(self, capacity: int) -> dict[tuple[int, int], list[Step]]:
        """The finished episodes of which the last ``capacity`` steps of their environments hold all steps."""
        found: dict[tuple[int, int], list[Step]] = {}
        for env, steps in enumerate(self.steps):
            for step in steps:
                found.setdefault((env, step.episode), []).append(step)
            kept = set(steps[-capacity:])
            for key in [key for key in found if key[0] == env]:
                last = found[key][-1]
                if not (set(found[key]) <= kept and (last.terminated or last.truncated)):
                    del found[key]
        return found


def batched(steps: list[Step], after: int) -> dict[str, Any]:
    """The observations of a step of each environment."""
    each = [step.obs(after) for step in steps]
    return {key: np.array([one[key] for one in each], space.dtype) for key, space in SPACE.spaces.items()}


def allowed_goals(
    strategy: str, step: Step, episodes: dict[tuple[int, int], list[Step]]
) -> set[tuple[int, ...]]:
    """The goals that a strategy may give a step, from the definition in the paper."""
    own = episodes[step.env, step.episode]
    chosen = {
        "final": own[-1:],
        "future": own[step.t :],
        "prioritised": own[step.t :],
        "episode": own,
        "random": [one for steps in episodes.values() for one in steps],
    }[strategy]
    return {one.achieved(1) for one in chosen}

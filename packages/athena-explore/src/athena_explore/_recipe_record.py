"""What a run of the recipe `explore` remembers: its episodes, its bonuses, where it has been."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from athena_core.environments import ReplayableEnv
from athena_explore._bonus import Bonus
from athena_explore._recipe_environment import Places


class BonusWatch:
    """Listens to what a bonus is asked and answers, and takes the time.

    The methods ``score`` and ``update`` of that one bonus are replaced by ones that also take notes.

    >>> from gymnasium import spaces
    >>> from athena_explore import RND, Transition
    >>> bonus = RND(spaces.Box(0, 1, (2,)), spaces.Discrete(3))
    >>> watch = BonusWatch(bonus)
    >>> obs, ends = torch.rand(8, 1, 2), torch.zeros(8, 1, dtype=torch.bool)
    >>> transition = Transition(obs, torch.zeros(8, 1), obs, ends, ends)
    >>> for _ in range(2):
    ...     _ = bonus.score(transition), bonus.update(transition)
    >>> sorted(watch.take()), watch.seconds > 0
    (['bonus_mean', 'bonus_std', 'prediction_error'], True)
    """

    def __init__(self, bonus: Bonus) -> None:
        self.seconds = 0.0
        self._rewards: list[Tensor] = []
        self._metrics: dict[str, list[float]] = {}
        bonus.score = self._listening(bonus.score, self._rewards.append)
        bonus.update = self._listening(bonus.update, self._note)

    def take(self) -> dict[str, float]:
        """Mean and deviation of the rewards since the last call, and the means of the bonus's own metrics."""
        rewards = torch.cat([part.flatten() for part in self._rewards])
        std, mean = torch.std_mean(rewards, correction=0)
        own = {name: float(np.mean(values)) for name, values in self._metrics.items()}
        self._rewards.clear()
        self._metrics.clear()
        return {"bonus_mean": float(mean), "bonus_std": float(std), **own}

    def _note(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._metrics.setdefault(name, []).append(value)

    def _listening(self, method: Callable[..., Any], note: Callable[[Any], None]) -> Callable[..., Any]:
        def heard(*args: Any) -> Any:
            begun = time.perf_counter()
            answer = method(*args)
            self.seconds += time.perf_counter() - begun
            note(answer)
            return answer

        return heard


class Record:
    """Episodes, bonuses and visits of a run, with what is logged and reported of them.

    Args:
        goal_return: an episode whose return exceeds it has reached the goal.
        places: how visits are mapped; None for environments where they cannot be.

    >>> record = Record(goal_return=0.0, places=None)
    >>> record.note(10, ended=[(1.0, 4), (0.0, 6)], bonus={"bonus_mean": 0.5, "bonus_std": 0.1})
    {'return': 0.5, 'length': 5.0, 'goal_share': 0.5}
    >>> record.final(10)
    {'return_last_tenth': 0.5, 'best_return': 1.0, 'goal_reached': 1.0, 'goal_share': 0.5}
    """

    def __init__(self, *, goal_return: float, places: Places | None) -> None:
        self.goal_return, self.places = goal_return, places
        self.visits = None if places is None else places.visits
        self.returns: list[float] = []
        self.ends: list[int] = []  # steps of the run, at the end of the rollout in which each episode ended
        self.steps: list[int] = []  # at the end of each rollout
        self.bonus_means: list[float] = []
        self.bonus_stds: list[float] = []
        self.latest = (0.0, 0.0)  # return and length that were logged last
        self.goals = 0  # episodes that reached the goal

    def watch(self, step: int, envs: Sequence[ReplayableEnv], bonus: Mapping[str, float]) -> dict[str, float]:
        """Take note of a rollout that ended at a step of the run; what to log of it."""
        ended = []
        for env in envs:
            seen = env.drain()
            ended += seen.ended
            if self.places is not None and seen.marks:
                self.places.visits.add(self.places.points(seen.marks))
        return {**self.note(step, ended=ended, bonus=bonus), **bonus}

    def note(
        self, step: int, *, ended: Sequence[tuple[float, int]], bonus: Mapping[str, float]
    ) -> dict[str, float]:
        """As `watch`, of the return and length of each episode that ended.

        Where none did, what was logged before is logged again: every seed logs at the same steps.
        """
        self.returns += [total for total, _ in ended]
        self.ends += [step] * len(ended)
        self.goals += sum(total > self.goal_return for total, _ in ended)
        self.steps.append(step)
        self.bonus_means.append(bonus["bonus_mean"])
        self.bonus_stds.append(bonus["bonus_std"])
        if ended:
            mean_return, mean_length = np.mean(ended, axis=0)
            self.latest = float(mean_return), float(mean_length)
        logged = {"return": self.latest[0], "length": self.latest[1], "goal_share": self.goal_share}
        return logged if self.visits is None else {**logged, "coverage": self.visits.coverage}

    @property
    def first_goal(self) -> int | None:
        """By which step an episode had reached the goal."""
        reached = (
            end for end, total in zip(self.ends, self.returns, strict=True) if total > self.goal_return
        )
        return next(reached, None)

    @property
    def goal_share(self) -> float:
        """The share of all episodes so far that reached the goal."""
        return self.goals / max(1, len(self.returns))

    def final(self, steps: int) -> dict[str, float]:
        """The final metrics of a run of so many steps."""
        late = [total for total, end in zip(self.returns, self.ends, strict=True) if end > 0.9 * steps]
        metrics = {
            "return_last_tenth": float(np.mean(late)) if late else self.latest[0],
            "best_return": max(self.returns, default=0.0),
            "goal_reached": float(self.goals > 0),
            "goal_share": self.goal_share,
        }
        return metrics if self.visits is None else {**metrics, "coverage": self.visits.coverage}

    def state_dict(self) -> dict[str, Any]:
        names = ("returns", "ends", "steps", "bonus_means", "bonus_stds")
        state: dict[str, Any] = {name: np.array(getattr(self, name)) for name in names}
        state |= {"latest": self.latest, "goals": self.goals}
        return state if self.visits is None else {**state, "visits": self.visits.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in ("returns", "ends", "steps", "bonus_means", "bonus_stds"):
            setattr(self, name, np.asarray(state[name]).tolist())
        self.latest, self.goals = tuple(state["latest"]), state["goals"]
        if self.visits is not None:
            self.visits.load_state_dict(state["visits"])

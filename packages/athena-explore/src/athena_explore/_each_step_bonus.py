"""A bonus that is asked at every step and learns every so many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Space
from numpy.typing import NDArray

from athena_explore._as_bonus import BonusChoice, as_bonus
from athena_explore._step_reader import stack_transitions
from athena_explore._transition import Transition


class EachStepBonus:
    """What `IntrinsicReward` and `SingleIntrinsicReward` are besides wrappers: a bonus at every step.

    Each step is scored and made known at once (`Bonus.advance`). Transitions wait until there are
    ``learn_every`` of each environment, on average, and then the bonus learns from them (`Bonus.learn`). So a
    bonus with networks is 0 until it learned for the first time, or was warmed up (`warm_up`).

    ``bonus`` is the `Bonus`, which can be moved (``env.bonus.to("cuda")``) and saved; ``metrics`` what it
    reported when it learned last. With ``training`` False nothing changes: steps are scored by what the bonus
    knows, and enter nothing; where they ended episodes that it remembers, all under way are forgotten once
    training goes on. ``coefficient`` may be changed at any time.

    Args:
        observation_space, action_space: of one environment.
        bonus, bonus_options, seed: the name of a component of the kind ``bonus``, a `Bonus` class, a function
            of both spaces, or a `Bonus`; options and seed for what is still to be made.
        coefficient: of the bonus in the reward; 0 leaves the reward as it is.
        learn_every: steps.

    Raises ValueError for numbers outside their range.

    >>> from gymnasium import spaces
    >>> each = EachStepBonus(spaces.Box(0, 1, (2,)), spaces.Discrete(2), bonus="rnd", learn_every=2)
    >>> obs, no = np.ones((1, 3, 2), np.float32), np.zeros((1, 3), bool)
    >>> [each.reward_of(Transition(obs, no, obs, no, no)).shape for _ in range(3)], each.bonus.ready
    ([(3,), (3,), (3,)], True)
    """

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        bonus: BonusChoice,
        bonus_options: Mapping[str, Any] | None = None,
        coefficient: float = 0.0,
        learn_every: int = 128,
        seed: int = 0,
    ) -> None:
        if not 0 <= coefficient < float("inf"):
            raise ValueError(
                f"`coefficient` must be a finite number of at least 0; got {coefficient}. Take 0 to leave "
                "the reward as it is."
            )
        if learn_every < 1:
            raise ValueError(f"`learn_every` must be at least 1; got {learn_every}. Take 128.")
        self.bonus = as_bonus(bonus, observation_space, action_space, options=bonus_options, seed=seed)
        self.coefficient, self.learn_every, self.training = coefficient, learn_every, True
        self.metrics: dict[str, float] = {}  # of the latest `learn`
        self._waiting: list[Transition] = []
        self._waiting_rows = 0
        self._missed_ends = False  # of episodes that the bonus remembers, while it was not training

    def reward_of(self, transition: Transition) -> NDArray[np.float32]:
        """The intrinsic rewards ``(N,)`` of a step ``(1, N)``, which then enters the bonus."""
        if self.training and self._missed_ends:
            self.start_episodes()
        rewards = self.bonus.score(transition)[0].cpu().numpy()
        if self.training:
            self.bonus.advance(transition)
            self._wait(transition)
        elif self.bonus.episodic and bool(transition.done.any()):
            self._missed_ends = True
        return rewards

    def start_episodes(self) -> None:
        """Forget the episodes under way: all environments start again."""
        self._missed_ends = self.bonus.episodic and not self.training
        if self.training:
            self.bonus.clear_episodes()

    def _wait(self, transition: Transition) -> None:
        # Rows that only reset do not count: a bonus learns at the same transitions in each autoreset mode.
        self._waiting.append(transition)
        self._waiting_rows += int(transition.valid.sum())
        if self._waiting_rows >= self.learn_every * transition.shape[1]:
            waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
            self.metrics = self.bonus.learn(stack_transitions(waiting))

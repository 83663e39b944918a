"""One row of many environments under machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from athena_hrl._call_stack import CallStack, ChoicePoint
from athena_hrl._ham import HAM
from athena_hrl._ham_steps import Choose
from athena_hrl._machine_replay import restored_value, saved_value

_PARTS = "waiting", "choice", "reward", "duration", "discount"


class Followed(NamedTuple):
    """A choice that was followed to the next one or to an end.

    >>> Followed(0, None, 1, 0.5, 2, 0.25, None, None, terminated=True, truncated=False).duration
    2
    """

    row: int
    start: Any  # the agent's observation of the choice
    choice: int
    reward: float  # the sum of gamma^i r_i
    duration: int
    discount: float
    observation: Any  # the environment's, at the next choice or the end
    point: ChoicePoint | None  # open there
    terminated: bool
    truncated: bool


class HAMRow:
    """The machines of one row, and what has happened since its last choice.

    Attributes:
        action: the last that its machines asked for.
        point: the choice that is open, or None.
        waiting: for the step that starts it again.

    >>> from athena_hrl import choose
    >>> def root(machine):
    ...     yield choose("which", "ab")
    >>> row = HAMRow(HAM(root), 0)
    >>> row.begin(7)
    >>> row.point.label
    'which'
    """

    def __init__(self, ham: HAM, number: int) -> None:
        self.stack, self.number = CallStack(ham), number
        self.action: Any = None
        self.point: ChoicePoint | None = None
        self.waiting = False
        self.start: Any = None  # None before the first choice of an episode
        self.choice, self.reward, self.duration, self.discount = 0, 0.0, 0, 1.0

    def begin(self, observation: Any) -> None:
        """Start an episode, and run to the first action or choice."""
        self.waiting, self.start = False, None
        self.stack.begin(observation)
        self._advance()

    def choose(self, choice: int, start: Any) -> Followed | None:
        """Take an option, and run on; what came of it if that is another choice already."""
        self.start, self.choice, self.reward, self.duration, self.discount = start, choice, 0.0, 0, 1.0
        self.stack.choose(choice)
        self._advance()
        return None if self.point is None else self._followed(self.point)

    def arrive(self, observation: Any, reward: float, *, gamma: float) -> Followed | None:
        """Run on after an action; what came of the choice if that ends at the next one."""
        self._acted(observation, reward, gamma)
        self._advance()
        return None if self.point is None else self._followed(self.point)

    def end(
        self, observation: Any, reward: float, *, gamma: float, terminated: bool, truncated: bool
    ) -> Followed | None:
        """Close the episode with its last action; what came of the choice, if one was made."""
        self._acted(observation, reward, gamma)
        if not terminated:
            self._advance()
        point, self.point = self.point, None
        self.stack.end()
        return self._followed(point, terminated=terminated, truncated=truncated)

    def state_dict(self) -> dict[str, Any]:
        """Primitives and arrays."""
        state = {name: getattr(self, name) for name in _PARTS}
        state["start"] = saved_value(self.start, "an observation")
        state["action"] = saved_value(self.action, "an action")
        return {**state, "stack": self.stack.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ReplayDiverged if machines are others."""
        for name in _PARTS:
            setattr(self, name, state[name])
        self.start, self.action = restored_value(state["start"]), restored_value(state["action"])
        self.stack.load_state_dict(state["stack"])
        if self.stack.frames:
            self._advance()

    def _acted(self, observation: Any, reward: float, gamma: float) -> None:
        self.reward, self.duration = self.reward + self.discount * reward, self.duration + 1
        self.discount *= gamma
        self.stack.observe(observation)

    def _advance(self) -> None:
        try:
            step = self.stack.run()
        except BaseException as error:
            error.add_note(f"in row {self.number} of the vector environment")
            raise
        if isinstance(step, Choose):
            self.point = self.stack.point
        else:
            self.point, self.action = None, step.action

    def _followed(
        self, point: ChoicePoint | None, *, terminated: bool = False, truncated: bool = False
    ) -> Followed | None:
        if self.start is None:
            return None
        numbers = self.choice, self.reward, self.duration, self.discount
        return Followed(
            self.number, self.start, *numbers, self.stack.observation, point, terminated, truncated
        )


class ClosedChoices(NamedTuple):
    """Choices that were followed to the next one or to an end in a step, one row each.

    >>> ClosedChoices._fields[:4]
    ('rows', 'observation', 'choice', 'reward')
    """

    rows: NDArray[np.int64]  # of the vector environment
    observation: list[Any]  # where the choice was made
    choice: NDArray[np.int64]
    reward: NDArray[np.float64]  # the sum of gamma^i r_i
    duration: NDArray[np.int64]  # tau
    discount: NDArray[np.float64]  # gamma^tau
    next_observation: list[Any]  # the next choice, or the end, before any reset
    available: NDArray[np.bool_]  # (rows, max_choices): the options there
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    at_choice: NDArray[np.bool_]  # where it is not, and the episode was truncated, no value is known there

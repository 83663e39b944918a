"""Choice points by number, for observations that say at which one an agent is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from athena_hrl._call_stack import ChoicePoint, StackKey

Form = Literal["dict", "index"]


class ChoicePoints:
    """Numbers the stacks and labels of choices in the order in which they are met, and writes observations.

    The last number, ``max_points``, says that no choice is open.

    Args:
        space: of the environment's observations.
        max_points: how many there may be.
        max_choices: the most options that a choice has.
        form: "dict" makes ``{"observation": ..., "point": number}``; "index" makes of a Discrete
            observation :math:`s` the number :math:`s (P + 1) + p`, for tables.

    Raises ValueError for numbers below 1, an unknown form, "index" where observations are not Discrete from
    0; in use where there are more choice points or options.

    >>> points = ChoicePoints(spaces.Discrete(10), max_points=2, max_choices=4, form="index")
    >>> points.observation(5, ChoicePoint((("", "root", ()),), "direction", range(4), 5))
    15
    >>> points.space
    Discrete(30)
    """

    def __init__(self, space: spaces.Space[Any], *, max_points: int, max_choices: int, form: Form) -> None:
        for name, value in (("max_points", max_points), ("max_choices", max_choices)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1; got {value}.")
        if form not in ("dict", "index"):
            raise ValueError(f'`form` must be "dict" or "index"; got {form!r}.')
        self.max_points, self.max_choices, self.form = max_points, max_choices, form
        self.numbers: dict[tuple[StackKey, str], int] = {}
        if form == "dict":
            point = spaces.Discrete(max_points + 1)
            self.space: spaces.Space[Any] = spaces.Dict({"observation": space, "point": point})
        elif isinstance(space, spaces.Discrete) and space.start == 0:
            self.space = spaces.Discrete(int(space.n) * (max_points + 1))
        else:
            raise ValueError(f'`form` "index" needs observations that are Discrete from 0; got {space}.')

    def number(self, point: ChoicePoint | None) -> int:
        """Of a choice point, a new one if it was never met."""
        if point is None:
            return self.max_points
        number = self.numbers.get((point.stack, point.label))
        if number is not None:
            return number
        if len(self.numbers) == self.max_points:
            raise ValueError(
                f"`max_points` must be at least the number of choice points; got {self.max_points}, and "
                f"{point.label!r} in {point.stack} is one more."
            )
        self.numbers[point.stack, point.label] = len(self.numbers)
        return len(self.numbers) - 1

    def observation(self, observation: Any, point: ChoicePoint | None) -> Any:
        """What an agent observes."""
        number = self.number(point)
        if self.form == "dict":
            return {"observation": observation, "point": np.int64(number)}
        return int(observation) * (self.max_points + 1) + number

    def mask(self, point: ChoicePoint | None) -> NDArray[np.bool_]:
        """The options that there are, ``(max_choices,)``; the first alone where no choice is open."""
        count = 1 if point is None else len(point.options)
        if count > self.max_choices:
            assert point is not None
            raise ValueError(
                f"`max_choices` must be at least the options of each choice; got {self.max_choices}, and "
                f"{point.label!r} has {count}."
            )
        return np.arange(self.max_choices) < count

    def state_dict(self) -> dict[str, Any]:
        """The choice points, in the order of their numbers."""
        return {"points": [[stack, label] for stack, label in self.numbers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the numbers. Raises ValueError for more than there may be."""
        if len(state["points"]) > self.max_points:
            raise ValueError(f"`max_points` must be at least {len(state['points'])}; got {self.max_points}.")
        self.numbers = {(stack, label): number for number, (stack, label) in enumerate(state["points"])}

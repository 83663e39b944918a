"""Several options of one environment, for one observation or a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from athena_hrl._discrete_actions import DiscreteActions, needed, one_line, probabilities
from athena_hrl._option import Option
from athena_hrl._option_parts import count_rows, evaluated, evaluated_rows, row_of, spaces_of
from athena_hrl._option_stack import stacked

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class OptionTables(NamedTuple):
    """Options as numbers, over S states, O options and A actions.

    >>> OptionTables(np.ones((9, 3), bool), np.full((9, 3, 2), 0.5), np.zeros((9, 3))).policy[4, 0]
    array([0.5, 0.5])
    """

    initiation: Mask  # (S, O)
    policy: Array  # (S, O, A): probabilities
    termination: Array  # (S, O): probabilities


class Options:
    r"""Options that belong together, checked against the spaces of their environment.

    For a batch of ``N`` observations there are `available`, `act` and `terminates`, for a single observation
    `starts`, `action` and `ends`. All are functions of their arguments: what is drawn, is drawn by the
    ``uniform`` numbers in [0, 1) that they are given. The action is the first whose cumulative probability
    exceeds the number, and an option ends where :math:`u < \beta`.

    If all parts are tables they are stacked, and a batch costs one look-up however many options there are.

    Args:
        options: at least one.
        env: the environment, single or vector, whose spaces they must suit.

    Attributes:
        stochastic: whether ``uniform`` is needed: something is drawn, or some part is no table and so may
            give probabilities.
        everywhere: whether some option is known to be able to start in every state.
        stack: the options as one table; None if some part of them is none.
        max_duration: of each option, ``(O,)``.

    Raises TypeError for what is no option; ValueError for no options, and for tables of another environment:
    of another number of states or actions, or with numbers that are no probabilities. What functions and
    networks give is checked in use.

    >>> import gymnasium as gym
    >>> lake = gym.make("FrozenLake-v1")
    >>> down = Option(policy=np.full(16, 1), termination=np.arange(16) >= 12, initiation=np.arange(16) < 12)
    >>> right = Option(policy=np.full(16, 2), termination=np.ones(16))
    >>> options = Options([down, right], lake)
    >>> observations = np.array([0, 13])
    >>> options.available(observations).tolist(), options.act(observations, np.array([0, 1])).tolist()
    ([[True, True], [False, True]], [1, 2])
    """

    def __init__(self, options: Iterable[Option], env: Any) -> None:
        self.options = tuple(options)
        if not self.options:
            raise ValueError("`options` must hold at least one; got none. Add `primitives(env)`.")
        for one in self.options:
            if not isinstance(one, Option):
                raise TypeError(
                    f"`options` must be of `Option`; got {one_line(one)}. For actions add `primitives(env)`."
                )
        self.observation_space, self.action_space = spaces_of(env)
        actions = self.action_space
        self._actions = DiscreteActions(actions) if isinstance(actions, spaces.Discrete) else None
        for number, option in enumerate(self.options):
            self._check(option, f"{number} {option.name!r}" if option.name else str(number))
        self.max_duration = np.array([option.max_duration for option in self.options])
        self.stack = stacked(self.options, self._actions)
        self.stochastic = self.stack is None or self.stack.stochastic
        free = any(option.initiation is None for option in self.options)
        self.everywhere = free or (self.stack is not None and bool(self.stack.initiation.any(1).all()))

    def __len__(self) -> int:
        return len(self.options)

    def __iter__(self) -> Iterator[Option]:
        return iter(self.options)

    def __getitem__(self, number: int) -> Option:
        return self.options[number]

    def available(self, observations: Any) -> Mask:
        """Which options may start where, ``(N, O)``."""
        if self.stack is not None:
            return self.stack.initiation.take(observations, 0)  # a fifth of the time of an index
        mask = np.ones((count_rows(observations), len(self)), dtype=np.bool_)
        for number, option in enumerate(self):
            if option.initiation is not None:
                mask[:, number] = evaluated_rows(option.initiation, observations).reshape(len(mask))
        return mask

    def act(self, observations: Any, option: NDArray[np.int64], *, uniform: Array | None = None) -> Any:
        """The actions ``(N, ...)`` of the options ``(N,)`` under way. Raises ValueError for what is none."""
        if self.stack is not None:
            found = self.stack.policy[option * self.stack.states + observations]
            return found if self.stack.gives_actions else self._draw_below(found, uniform)
        space: Any = self.action_space
        actions = np.empty((len(option), *space.shape), dtype=space.dtype)
        for number in np.unique(option):
            rows = np.flatnonzero(option == number)
            found = evaluated_rows(self.options[number].policy, row_of(observations, rows))
            drawn = None if uniform is None else uniform[rows]
            actions[rows] = found if self._actions is None else self._actions.drawn(found, drawn)
        return actions

    def terminates(
        self, observations: Any, option: NDArray[np.int64], *, uniform: Array | None = None
    ) -> Mask:
        """Which of the options ``(N,)`` end on arrival in ``observations``, ``(N,)``."""
        if self.stack is not None:
            found = self.stack.termination[option * self.stack.states + observations]
            return found if found.dtype == np.bool_ else needed(uniform) < found
        beta = np.empty(len(option))
        for number in np.unique(option):
            rows = np.flatnonzero(option == number)
            found = evaluated_rows(self.options[number].termination, row_of(observations, rows))
            beta[rows] = probabilities(found.reshape(len(rows)))
        return needed(uniform) < beta

    def starts(self, observation: Any) -> Mask:
        """Which options may start in one observation, ``(O,)``."""
        if self.stack is not None:
            return self.stack.initiation[observation].copy()
        parts = [option.initiation for option in self]
        return np.array([part is None or bool(evaluated(part, observation)) for part in parts])

    def action(self, observation: Any, option: int, *, uniform: Array | None = None) -> Any:
        """The action of an option in one observation; ``uniform`` is ``(1,)``."""
        if self.stack is not None:
            found = self.stack.policy[option * self.stack.states + observation]
            return found if self.stack.gives_actions else self._draw_below(found[None], uniform)[0]
        found = evaluated(self.options[option].policy, observation)
        return found if self._actions is None else self._actions.drawn(np.asarray(found)[None], uniform)[0]

    def ends(self, observation: Any, option: int, *, uniform: Array | None = None) -> bool:
        """Whether an option ends on arrival in one observation; ``uniform`` is ``(1,)``."""
        if self.stack is not None:
            beta = self.stack.termination[option * self.stack.states + observation]
        else:
            beta = probabilities(
                np.asarray(evaluated(self.options[option].termination, observation)).reshape(())
            )
        return bool(beta) if beta.dtype == np.bool_ else bool(needed(uniform)[0] < beta)

    def tables(self) -> OptionTables:
        """All options as tables, with functions and networks asked once in each state.

        Raises ValueError unless observations and actions are Discrete from 0.
        """
        space = self.observation_space
        for name, one in (("observations", space), ("actions", self.action_space)):
            if not isinstance(one, spaces.Discrete) or one.start != 0:
                raise ValueError(f"`env` must have {name} that are Discrete from 0; got {one}.")
        assert isinstance(space, spaces.Discrete)
        assert self._actions is not None
        states = np.arange(space.n)
        policy = [self._actions.chances(evaluated_rows(option.policy, states)) for option in self]
        ends = [probabilities(evaluated_rows(option.termination, states)).reshape(-1) for option in self]
        return OptionTables(self.available(states), np.stack(policy, 1), np.stack(ends, 1).astype(np.float64))

    def _draw_below(self, cumulative: Array, uniform: Array | None) -> NDArray[np.int64]:
        assert self._actions is not None
        return self._actions.drawn_below(cumulative, uniform)

    def _check(self, option: Option, name: str) -> None:
        space = self.observation_space
        for part in ("initiation", "policy", "termination"):
            table = getattr(option, part)
            if not isinstance(table, np.ndarray):
                continue
            if not isinstance(space, spaces.Discrete) or space.start != 0:
                raise ValueError(
                    f"`{part}` of option {name} must be a function or a network, since tables need states "
                    f"that are Discrete from 0; got a table for {space}."
                )
            if table.shape[: None if part != "policy" else 1] != (space.n,):
                raise ValueError(
                    f"`{part}` of option {name} must be a table of {space.n} states; got the shape "
                    f"{table.shape}. Take options of this environment."
                )
            if part == "initiation" and not ((table == 0) | (table == 1)).all():
                raise ValueError(f"`initiation` of option {name} must hold bools; got {one_line(table)}.")
            if part == "termination":
                probabilities(table, f"`{part}` of option {name}")
            if part == "policy" and self._actions is not None:
                self._actions.chances(table)

"""Which options the rows of a vector environment carry out: what they do, and where they end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from athena_hrl._options import Options

Mask = NDArray[np.bool_]
Numbers = NDArray[np.integer[Any]]


class OptionRows:
    """One option a row, of any kind.

    >>> import gymnasium as gym
    >>> from athena_hrl import primitives
    >>> lakes = gym.make_vec("FrozenLake-v1", 2)
    >>> rows = option_rows(Options(primitives(lakes), lakes), 2)
    >>> rows.begin(np.array([0]), np.array([3]), np.array([0]))
    >>> rows.act(np.array([0, 0]), None).tolist(), rows.option.tolist()
    ([3, 0], [3, 0])
    """

    def __init__(self, options: Options, count: int) -> None:
        self.options, self.option = options, np.zeros(count, dtype=np.int64)

    def begin(self, rows: Numbers, chosen: Numbers, observation: Any) -> None:
        """Let some rows begin options. Raises IndexError, here or in `act`, for some that cannot start."""
        available = self.options.available(observation)
        if (chosen < 0).any() or not available[np.arange(len(chosen)), chosen].all():
            raise IndexError
        self.option[rows] = chosen

    def act(self, observation: Any, uniform: Any) -> Any:
        """The actions of all rows."""
        return self.options.act(observation, self.option, uniform=uniform)

    def arrive(self, observation: Any, uniform: Any) -> Mask:
        """Which options end on arrival."""
        return self.options.terminates(observation, self.option, uniform=uniform)


class TableRows(OptionRows):
    """One option a row, of tables that draw nothing: with the fewest operations on arrays that will do.

    Each takes a quarter of a microsecond for a few rows, and a step of a fast environment some twenty.

    >>> issubclass(TableRows, OptionRows)
    True
    """

    def __init__(self, options: Options, count: int) -> None:
        stack = options.stack
        assert stack is not None
        self.options, self.states = options, stack.states
        self.policy, self.termination = stack.policy, stack.termination
        # Of numbers below 0, too, so many are told from options, by an index outside all tables.
        wrong = np.iinfo(np.int64).max // 2
        self.offsets = np.full(len(options) + 1024, wrong)
        self.offsets[: len(options)] = np.arange(len(options)) * stack.states
        able = stack.initiation.T.ravel()
        self.starts = np.where(able, np.arange(len(able)), wrong)
        self.offset, self.index = np.zeros((2, count), dtype=np.int64)

    @property
    def option(self) -> NDArray[np.int64]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The option of each row."""
        return self.offset // self.states

    def begin(self, rows: Numbers, chosen: Numbers, observation: Any) -> None:
        offset = self.offsets[chosen]
        self.index[rows] = self.starts[offset + observation]
        self.offset[rows] = offset

    def act(self, observation: Any, uniform: Any) -> Any:  # noqa: ARG002
        return self.policy[self.index]

    def arrive(self, observation: Any, uniform: Any) -> Mask:  # noqa: ARG002
        self.index = index = self.offset + observation
        return self.termination[index]


def option_rows(options: Options, count: int) -> OptionRows:
    """The way to carry out options in so many rows that suits them.

    >>> import gymnasium as gym
    >>> from athena_hrl import primitives
    >>> cart = gym.make("CartPole-v1")
    >>> type(option_rows(Options(primitives(cart), cart), 8)).__name__
    'OptionRows'
    """
    return OptionRows(options, count) if options.stochastic else TableRows(options, count)

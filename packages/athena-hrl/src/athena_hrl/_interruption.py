"""Options that are given up where another is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from athena_hrl._option import Option
from athena_hrl._option_parts import evaluated
from athena_hrl._options import Options


def interrupted(
    options: Options, q: ArrayLike | Callable[[Any], ArrayLike], *, values: ArrayLike | None = None
) -> list[Option]:
    r"""The same options, but ended on arrival wherever it is better to choose anew,

    .. math::
        \beta'_o(s) = \begin{cases} 1 & Q(s, o) < V(s) \\ \beta_o(s) & \text{otherwise.} \end{cases}

    If :math:`Q` and :math:`V` are those of a policy over the options, the same policy over these is nowhere
    worse, and better from wherever an interruption can happen.

    :math:`Q(s, o)` is the value of going on with :math:`o` in :math:`s`, also where it could not start. The
    table of `IntraOptionQLearning` and that of `evaluate_options` hold it. `SMDPQLearning` never learns those
    entries: set them to NaN. An option is not interrupted where its value is NaN or infinite.

    Args:
        options: of one environment.
        q: :math:`Q`, a table ``(states, options)``, or a function of an observation: ``(options,)``.
        values: :math:`V` of the policy, ``(states,)`` for a table; None is the greedy one's, the best of the
            options that can start.

    Raises ValueError for tables of another shape, and for ``values`` beside a function.
    Source: Sutton, Precup, Singh 1999, "Between MDPs and semi-MDPs", section 4 and its theorem 2. Departs
    from it: it compares histories of an option, these are states.

    >>> import gymnasium as gym
    >>> lake = gym.make("FrozenLake-v1")
    >>> down = Option(policy=np.full(16, 1), termination=np.zeros(16), name="down")
    >>> right = Option(policy=np.full(16, 2), termination=np.zeros(16), name="right")
    >>> q = np.zeros((16, 2))
    >>> q[7] = 1, 2
    >>> [int(option.termination[7]) for option in interrupted(Options([down, right], lake), q)]
    [1, 0]
    """
    if callable(q):
        if values is not None:
            raise ValueError("`values` must be left out where `q` is a function; got both.")
        return [_interrupted(options, number, q) for number in range(len(options))]
    tables, table = options.tables(), np.asarray(q, dtype=np.float64)
    if table.shape != tables.initiation.shape:
        raise ValueError(f"`q` must have the shape {tables.initiation.shape}; got {table.shape}.")
    known = np.isfinite(table)
    if values is None:
        values = np.where(tables.initiation & known, table, -np.inf).max(1)
    values = np.asarray(values, dtype=np.float64)
    if values.shape != table.shape[:1]:
        raise ValueError(f"`values` must have the shape {table.shape[:1]}; got {values.shape}.")
    margin = 1e-12 * np.maximum(1, np.abs(values))  # equal values differ by their rounding
    ends = np.where(known & (table < (values - margin)[:, None]), 1.0, tables.termination)
    return [_with_termination(option, ends[:, number]) for number, option in enumerate(options)]


def _interrupted(options: Options, number: int, q: Callable[[Any], ArrayLike]) -> Option:
    def termination(observation: Any) -> Any:
        values = np.asarray(q(observation), dtype=np.float64)
        able = options.starts(observation) & np.isfinite(values)
        if np.isfinite(values[number]) and values[number] < values.max(initial=-np.inf, where=able):
            return 1.0
        return evaluated(options[number].termination, observation)

    return _with_termination(options[number], termination)


def _with_termination(option: Option, termination: Any) -> Option:
    return Option(
        policy=option.policy,
        termination=termination,
        initiation=option.initiation,
        max_duration=option.max_duration,
        name=option.name,
    )

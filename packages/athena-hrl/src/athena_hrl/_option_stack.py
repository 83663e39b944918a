"""Options that are tables, stacked into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from athena_hrl._discrete_actions import DiscreteActions
from athena_hrl._option import Option


class OptionStack(NamedTuple):
    """Tables of O options over S states: policy and termination have the row ``option * S + state``.

    >>> halves = Option(policy=np.zeros(3, int), termination=np.full(3, 0.5))
    >>> stacked([halves, halves], None).termination.tolist()
    [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    """

    states: int
    initiation: NDArray[np.bool_]  # (S, O)
    policy: NDArray[Any]  # (O * S, ...): actions, or cumulative probabilities
    termination: NDArray[Any]  # (O * S,): bools, or probabilities
    gives_actions: bool

    @property
    def stochastic(self) -> bool:
        """Whether anything is drawn."""
        return not self.gives_actions or self.termination.dtype != np.bool_


def stacked(options: Sequence[Option], actions: DiscreteActions | None) -> OptionStack | None:
    """The options as one table; None if some part of them is none. ``actions`` is None if not Discrete.

    >>> stacked([Option(policy=lambda state: 0, termination=np.ones(3))], None) is None
    True
    """
    parts = [part for one in options for part in (one.policy, one.termination, one.initiation)]
    if not all(part is None or isinstance(part, np.ndarray) for part in parts):
        return None
    policies: list[Any] = [option.policy for option in options]
    states = len(policies[0])
    everywhere = np.ones(states, dtype=np.bool_)
    starts = [everywhere if option.initiation is None else option.initiation for option in options]
    gives_actions = actions is None or all(policy.ndim == 1 for policy in policies)
    if actions is not None and not gives_actions:
        policies = [actions.cumulative(policy) for policy in policies]
    ends = np.concatenate([np.asarray(option.termination, dtype=np.float64) for option in options])
    return OptionStack(
        states,
        np.ascontiguousarray(np.array(starts, dtype=np.bool_).T),
        np.concatenate(policies),
        ends > 0 if ((ends == 0) | (ends == 1)).all() else ends,
        gives_actions,
    )

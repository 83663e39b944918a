"""What options do, exactly, in a finite decision process whose model is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from athena_hrl._options import OptionTables
from athena_hrl._smdp import checked_gamma, no_option
from athena_hrl._value_iteration import FiniteMDP

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class OptionModels(NamedTuple):
    """What becomes of options that start in a state. Rows that no option reaches are 0.

    >>> OptionModels(np.zeros((9, 3, 9)), np.zeros((9, 3))).reward.shape
    (9, 3)
    """

    transition: Array  # (S, O, S): E[gamma^k 1(s_k = s')]
    reward: Array  # (S, O): E[sum of gamma^i r_i]


def option_models(model: FiniteMDP, options: OptionTables, *, gamma: float) -> OptionModels:
    r"""The models of options, from linear systems: with :math:`P_\pi, r_\pi` those of an option's policy,

    .. math::
        F_o = \gamma P_{\pi_o} B_o + \gamma P_{\pi_o} (1 - B_o) F_o, \qquad
        R_o = r_{\pi_o} + \gamma P_{\pi_o} (1 - B_o) R_o,

    where :math:`B_o` is diagonal with the terminations :math:`\beta_o(s')`. Rows are filled for the states in
    which an option can be under way: where it can start, and what it reaches from there.

    The models are those of a decision process without a discount: `value_iteration` takes them as
    ``transition`` and ``reward``, with ``available=options.initiation``. So does `option_policy_iteration`.

    Args:
        model: of the process, ``S`` states and ``A`` actions.
        options: `Options.tables`.
        gamma: :math:`\gamma`.

    Shape: ``(S, O, S)`` and ``(S, O)``.
    Raises ValueError for options of another process, for one that may never end with ``gamma=1``, and for one
    that may end in a state in which none can start.
    Source: Sutton, Precup, Singh 1999, "Between MDPs and semi-MDPs", equations 5 and 6, and the Bellman
    equations for them in section 5. Departs from it: ``max_duration`` of options is not looked at.

    >>> model = FiniteMDP(
    ...     np.array([[[0.0, 1.0]], [[0.0, 1.0]]]), reward=np.ones((2, 1)), start=np.ones(2) / 2
    ... )
    >>> walk = OptionTables(np.array([[True], [True]]), np.ones((2, 1, 1)), np.array([[0.0], [0.5]]))
    >>> option_models(model, walk, gamma=0.5).reward[:, 0].round(3).tolist()
    [1.333, 1.333]
    """
    checked_gamma(gamma)
    states, count, actions = options.policy.shape
    if model.reward.shape != (states, actions):
        raise ValueError(
            f"`options` must be of {model.reward.shape[0]} states and {model.reward.shape[1]} actions, as "
            f"`model` has; got {states} and {actions}. Take options of this environment."
        )
    transition, reward = np.zeros((states, count, states)), np.zeros((states, count))
    for number in range(count):
        policy, beta = options.policy[:, number], options.termination[:, number]
        step = gamma * np.einsum("sa,sat->st", policy, model.transition)
        onward = step * (1 - beta)
        rows = np.flatnonzero(_reached(onward > 0, options.initiation[:, number]))
        right = np.column_stack([step * beta, np.einsum("sa,sa->s", policy, model.reward)])[rows]
        found = solved(np.eye(len(rows)) - onward[np.ix_(rows, rows)], right)
        if found is None:
            raise ValueError(
                f"`options` must end some time when `gamma` is 1; got option {number}, which may go on "
                "forever. Lower `gamma`, or let it end."
            )
        transition[rows, number], reward[rows, number] = found[:, :-1], found[:, -1]
    stuck = (transition.any((0, 1))) & ~options.initiation.any(1)
    for state in np.flatnonzero(stuck):
        raise no_option(state)
    return OptionModels(transition, reward)


def _reached(onward: Mask, start: Mask) -> Mask:
    """The states that can be met from ``start``."""
    reached = start.copy()
    while True:
        more = reached | onward[reached].any(0)
        if (more == reached).all():
            return reached
        reached = more


def solved(left: Array, right: Array) -> Array | None:
    """The solution of a linear system; None if there is none, also where rounding makes up one.

    >>> solved(np.array([[0.5]]), np.array([1.0]))
    array([2.])
    >>> solved(np.array([[0.0]]), np.array([1.0]))
    """
    try:
        found = np.linalg.solve(left, right).astype(np.float64)
    except np.linalg.LinAlgError:
        return None
    return found if np.allclose(left @ found, right) else None

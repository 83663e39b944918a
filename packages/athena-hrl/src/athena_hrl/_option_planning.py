"""Planning with option models: the values of a policy over options, and of the best one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from athena_hrl._option_models import OptionModels, solved

Array = NDArray[np.float64]


def evaluate_options(models: OptionModels, policy: Array) -> tuple[Array, Array]:
    r"""The values of a policy :math:`\mu` over options,

    .. math::
        V(s) = \sum_o \mu(o \mid s) Q(s, o), \qquad Q(s, o) = R_o(s) + \sum_{s'} F_o(s, s') V(s').

    :math:`Q` is also what is to be expected of an option under way, in states in which it could not start.

    Args:
        models: of `option_models`.
        policy: probabilities ``(S, O)``; zeros in states in which no option can start.

    Shape: ``(S,)`` and ``(S, O)``.
    Raises ValueError for a policy of another shape, and for one that may go on forever without a discount.
    Source: Sutton, Precup, Singh 1999, "Between MDPs and semi-MDPs", equations 7 and 8. Departs from it: no.

    >>> models = OptionModels(np.full((1, 2, 1), 0.5), np.array([[1.0, 3.0]]))
    >>> evaluate_options(models, np.array([[0.5, 0.5]]))
    (array([4.]), array([[3., 5.]]))
    """
    transition, reward = models
    policy = np.asarray(policy, dtype=np.float64)
    if policy.shape != reward.shape:
        raise ValueError(f"`policy` must have the shape {reward.shape}; got {policy.shape}.")
    onward = np.einsum("so,sot->st", policy, transition)
    right = (policy * reward).sum(1)
    value = solved(np.eye(len(right)) - onward, right)
    if value is None:
        raise ValueError(
            "`policy` must come to an end when there is no discount; got one that goes on forever. Give "
            "`option_models` a `gamma` below 1, or use `value_iteration`."
        )
    return value, reward + transition @ value


def option_policy_iteration(models: OptionModels, available: NDArray[np.bool_]) -> tuple[Array, Array]:
    r"""The values of the best policy over options, by evaluating a policy and being greedy on it, in turn.

    Exact after finitely many rounds, where `value_iteration` comes closer with each.

    Args:
        models: of `option_models`.
        available: :math:`O(s)`, the options that can start, ``(S, O)``: the ``initiation`` of their tables.

    Shape: ``(S,)`` and ``(S, O)``: :math:`V(s) = \max_{o \in O(s)} Q(s, o)`, 0 where there is none.
    Raises ValueError as `evaluate_options`.
    Source: Howard 1960; for options Sutton, Precup, Singh 1999, section 3.2. Departs from it: no.

    >>> models = OptionModels(np.full((1, 2, 1), 0.5), np.array([[1.0, 3.0]]))
    >>> option_policy_iteration(models, np.array([[True, False]]))
    (array([2.]), array([[2., 4.]]))
    """
    able = available.any(1)
    chosen = available.argmax(1)
    while True:
        policy = np.zeros(models.reward.shape)
        policy[able, chosen[able]] = 1
        value, q = evaluate_options(models, policy)
        masked = np.where(available, q, -np.inf)
        # Only a real gain is one: rounding would let equals take turns.
        gain = masked.max(1) - value > 1e-12 * max(1.0, np.abs(value).max(initial=0.0))
        if not (gain & able).any():
            return value, q
        chosen = np.where(gain, masked.argmax(1), chosen)

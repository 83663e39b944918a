"""The exact optimum of a finite decision process whose model is known."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from athena_hrl._smdp import checked_gamma

Array = NDArray[np.float64]


class FiniteMDP(NamedTuple):
    """A model of numbered states and actions. What a row of ``transition`` lacks to 1 ends the episode.

    >>> FiniteMDP(np.zeros((1, 2, 1)), reward=np.array([[1.0, 2.0]]), start=np.ones(1)).reward.shape
    (1, 2)
    """

    transition: Array  # (states, actions, states): the chance to go on in each state
    reward: Array  # (states, actions): expected
    start: Array  # (states,): the chance that an episode begins there


def finite_mdp(env: gym.Env[Any, Any]) -> FiniteMDP:
    r"""The model of one of Gymnasium's toy texts, from its table ``env.unwrapped.P``.

    .. math:: T(s, a, s') = \sum_{(p, s', r, d)} p (1 - d), \quad R(s, a) = \sum_{(p, s', r, d)} p\, r

    Time limits are not in it.

    Raises ValueError for an environment without the table, and for Taxi's fickle passengers, whom its table
    leaves out.

    >>> model = finite_mdp(gym.make("FrozenLake-v1", is_slippery=False))
    >>> model.transition.shape, model.reward[14].tolist()
    ((16, 4, 16), [0.0, 0.0, 1.0, 0.0])
    """
    table, start = (getattr(env.unwrapped, name, None) for name in ("P", "initial_state_distrib"))
    if table is None or start is None:
        raise ValueError(
            f"`env` must have a table `P` and an `initial_state_distrib`, as Taxi has; got {env}. Build a "
            "`FiniteMDP` from arrays."
        )
    if getattr(env.unwrapped, "fickle_passenger", False):
        raise ValueError(
            "`env` must not have fickle passengers, whose change of mind depends on more than the state; got "
            "`fickle_passenger=True`. Leave it out."
        )
    shape = (len(table), len(table[0]))
    transition, reward = np.zeros((*shape, len(table))), np.zeros(shape)
    for state in table:
        for action, outcomes in table[state].items():
            for probability, after, gain, terminated in outcomes:
                reward[state, action] += probability * gain
                if not terminated:
                    transition[state, action, after] += probability
    return FiniteMDP(transition, reward, np.asarray(start, dtype=np.float64))


def value_iteration(
    transition: ArrayLike,
    reward: ArrayLike,
    *,
    gamma: float = 1.0,
    available: ArrayLike | None = None,
    tolerance: float = 1e-12,
    max_sweeps: int = 100_000,
) -> Array:
    r"""The optimal action values.

    .. math::
        Q(s, a) = R(s, a) + \gamma \sum_{s'} T(s, a, s') \max_{a' \in A(s')} Q(s', a')

    The same equation solves a process of options, with their models
    :math:`F(s, o, s') = E[\gamma^k 1(s_k = s')]` as ``transition`` and ``gamma=1``. Sweeps end once
    none changes a value by more than ``tolerance`` times the largest value; the error is at most that times
    :math:`\gamma / (1 - \gamma)`.

    Args:
        transition: :math:`T`, ``(states, actions, states)``, with rows that sum to 1 at most.
        reward: :math:`R`, ``(states, actions)``.
        gamma: 1 is for processes that end under some policy, and pay nothing for going on forever.
        available: :math:`A`, ``(states, actions)``; None is all. A state without any has the value 0.
        tolerance: of the last sweep, relative.
        max_sweeps: until giving up.

    Shape: ``(states, actions)``, minus infinity where an action is not available.
    Raises ValueError for shapes that do not fit, numbers that are not finite, rows that are no chances, and
    values that do not settle.
    Source: Bellman 1957; Sutton and Barto 2018, equation 4.10; of options Sutton, Precup and Singh 1999,
    equation 13. Departs from it: no.

    >>> on, end = [[[0.0, 1.0]], [[0.0, 0.0]]], [[-1.0], [20.0]]
    >>> value_iteration(on, end, gamma=0.5).tolist()
    [[9.0], [20.0]]
    """
    transition, reward, open_ = _checked(transition, reward, available)
    checked_gamma(gamma)
    value, change = np.zeros(len(reward)), np.inf
    for _ in range(max_sweeps):
        q = np.where(open_, reward + gamma * (transition @ value), -np.inf)
        after = np.where(open_.any(1), q.max(1, initial=-np.inf), 0.0)
        change = np.abs(after - value).max(initial=0.0)
        value = after
        if change <= tolerance * max(1.0, np.abs(value).max(initial=0.0)):
            return q
    raise ValueError(
        f"values must settle; after {max_sweeps:,} sweeps they still change by {change:.2g}. Lower "
        "`gamma`, or see that every state can come to an end."
    )


def _checked(
    transition: ArrayLike, reward: ArrayLike, available: ArrayLike | None
) -> tuple[Array, Array, NDArray[np.bool_]]:
    transition, reward = np.asarray(transition, dtype=np.float64), np.asarray(reward, dtype=np.float64)
    if reward.ndim != 2 or transition.shape != (*reward.shape, len(reward)):
        raise ValueError(
            "`transition` must be (states, actions, states) and `reward` (states, actions); got "
            f"{transition.shape} and {reward.shape}."
        )
    open_ = np.ones(reward.shape, np.bool_) if available is None else np.asarray(available, dtype=np.bool_)
    if open_.shape != reward.shape:
        raise ValueError(f"`available` must have the shape of `reward`, {reward.shape}; got {open_.shape}.")
    # Models of options that cannot start may hold anything.
    transition, reward = np.where(open_[..., None], transition, 0.0), np.where(open_, reward, 0.0)
    if not (np.isfinite(transition).all() and np.isfinite(reward).all()):
        raise ValueError("`transition` and `reward` must be finite; got NaN or infinity. Check the model.")
    total = transition.sum(-1)
    if transition.min(initial=0.0) < 0 or total.max(initial=0.0) > 1 + 1e-9:
        raise ValueError(
            "`transition` must hold chances that sum to 1 at most in each row; got the lowest "
            f"{transition.min():.3g} and the largest sum {total.max():.3g}."
        )
    return transition, reward, open_

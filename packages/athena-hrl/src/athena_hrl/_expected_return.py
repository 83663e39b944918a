"""The exact return of a policy, with memory or without, in a finite decision process under a time limit."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from athena_hrl._value_iteration import FiniteMDP

# (memory, state) to each action that may be taken: its chance, the action, the memory after it.
Controller = Callable[[Hashable, int], Iterable[tuple[float, int, Hashable]]]


def expected_return(
    model: FiniteMDP, policy: ArrayLike | Controller, *, steps: int, gamma: float = 1.0
) -> float:
    r"""What a policy earns in an episode, in expectation over starts, moves and its own draws.

    .. math::
        v_{n+1}(m, s) = \sum_{a, m'} \pi(a, m' \mid m, s) \Bigl(R(s, a)
            + \gamma \sum_{s'} T(s, a, s')\, v_n(m', s')\Bigr), \qquad v_0 = 0

    over the pairs of memory :math:`m` and state :math:`s` that occur; the result is
    :math:`\sum_s p_0(s)\, v_{steps}(\mathrm{None}, s)`. A policy that calls subroutines keeps its stack in
    its memory.

    Args:
        model: of the process.
        policy: actions ``(states,)``, chances ``(states, actions)``, or a function of memory and state, which
            lists ``(chance, action, memory after)``. Its memory is None when an episode begins.
        steps: the time limit.
        gamma: 1 is the plain sum of rewards.

    Raises ValueError for an array of another shape, for chances that do not sum to 1, and for no steps.
    Source: Sutton and Barto 2018, equation 4.5, for a finite number of sweeps. Departs from it: memory.

    >>> model = FiniteMDP(np.ones((1, 1, 1)), reward=np.array([[-1.0]]), start=np.ones(1))
    >>> expected_return(model, [0], steps=200)
    -200.0
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1; got {steps}.")
    controller = policy if callable(policy) else _without_memory(np.asarray(policy), model)
    numbers: dict[tuple[Hashable, int], int] = {}

    def number(memory: Hashable, state: int) -> int:
        return numbers.setdefault((memory, state), len(numbers))

    starts = [(number(None, int(state)), model.start[state]) for state in np.flatnonzero(model.start)]
    reward: list[float] = []
    edges: list[tuple[int, int, float]] = []
    pairs = list(numbers)
    depths = [0] * len(pairs)
    for row, (memory, state) in enumerate(pairs):  # grows as pairs are found
        if depths[row] == steps:  # with no step left they are worth nothing
            reward.append(0.0)
            continue
        gain = total = 0.0
        for chance, action, after in controller(memory, state):
            total += chance
            gain += chance * model.reward[state, action]
            onward = model.transition[state, action]
            for state_tp1 in np.flatnonzero(onward):
                column = number(after, int(state_tp1))
                if column == len(pairs):
                    pairs.append((after, int(state_tp1)))
                    depths.append(depths[row] + 1)
                edges.append((row, column, chance * onward[state_tp1]))
        if abs(total - 1) > 1e-9:
            raise ValueError(f"`policy` must give chances that sum to 1; got {total:.6g} in state {state}.")
        reward.append(gain)
    value = _swept(np.array(reward), edges, steps=steps, gamma=gamma)
    return float(sum(chance * value[row] for row, chance in starts))


def _swept(
    reward: NDArray[np.float64], edges: list[tuple[int, int, float]], *, steps: int, gamma: float
) -> NDArray[np.float64]:
    rows, columns = (np.array([edge[axis] for edge in edges], dtype=np.int64) for axis in (0, 1))
    weights = gamma * np.array([edge[2] for edge in edges], dtype=np.float64)
    value = np.zeros_like(reward)
    for _ in range(steps):
        value = reward + np.bincount(rows, weights * value[columns], len(reward))
    return value


def _without_memory(policy: NDArray[np.generic], model: FiniteMDP) -> Controller:
    n_states, n_actions = model.reward.shape
    if policy.shape not in ((n_states,), (n_states, n_actions)):
        raise ValueError(
            f"`policy` must be actions ({n_states},) or chances ({n_states}, {n_actions}); "
            f"got {policy.shape}."
        )
    listed = policy.tolist()

    def act(_: Hashable, state: int) -> list[tuple[float, int, Hashable]]:
        if policy.ndim == 1:
            return [(1.0, listed[state], None)]
        return [(chance, action, None) for action, chance in enumerate(listed[state]) if chance]

    return act

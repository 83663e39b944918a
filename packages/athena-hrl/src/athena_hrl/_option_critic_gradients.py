"""The formulas of the tabular option-critic, as pure functions of arrays with one row a run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def softmax(logits: Array) -> Array:
    r"""Probabilities :math:`e^{x_i} / \sum_j e^{x_j}` along the last axis, without overflow.

    Shape: ``(..., n) -> (..., n)``.

    >>> softmax(np.array([0.0, 0.0, -np.inf])).tolist()
    [0.5, 0.5, 0.0]
    """
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def sigmoid(logits: Array) -> Array:
    r"""The logistic function :math:`1 / (1 + e^{-x})`, without overflow.

    >>> sigmoid(np.array([0.0, -1000.0])).tolist()
    [0.5, 0.0]
    """
    exponential = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, exponential) / (1 + exponential)


def epsilon_soft(values: Array, epsilon: float) -> Array:
    r"""Probabilities :math:`\epsilon/n + (1 - \epsilon)\,[i \text{ is best}]`, shared among equal ones.

    Shape: ``(..., n) -> (..., n)``.

    >>> epsilon_soft(np.array([1.0, 3.0]), 0.5).tolist(), epsilon_soft(np.array([2.0, 2.0]), 0.0).tolist()
    ([0.25, 0.75], [0.5, 0.5])
    """
    best = values == values.max(-1, keepdims=True)
    return epsilon / values.shape[-1] + (1 - epsilon) * best / best.sum(-1, keepdims=True)


def epsilon_soft_value(values: Array, epsilon: float) -> Array:
    r"""The value of `epsilon_soft`: :math:`(1-\epsilon) \max_i x_i + \epsilon\,\tfrac1n \sum_i x_i`.

    Shape: ``(..., n) -> (...)``.
    Source: the value function over options of Bacon et al. 2017, arXiv:1609.05140, for an
    :math:`\epsilon`-greedy policy over them.

    >>> epsilon_soft_value(np.array([1.0, 3.0]), 0.5)
    np.float64(2.5)
    """
    best = values.max(-1)
    return best + epsilon * (values.mean(-1) - best)  # of one value, exactly that value


def sample_rows(probabilities: Array, uniform: Array) -> Integers:
    """An index drawn from each row by the inverse of its distribution function, from a number in [0, 1).

    Shape: ``(N, n), (N,) -> (N,)``.

    >>> sample_rows(np.array([[0.5, 0.5], [0.5, 0.5], [0.0, 1.0]]), np.array([0.4, 0.5, 0.0])).tolist()
    [0, 1, 1]
    """
    below = probabilities[:, :-1].cumsum(-1) <= uniform[:, None]  # without the last: rounding keeps inside
    return below.sum(-1)


def arrival_value(option_value: Array, state_value: Array, beta: Array) -> Array:
    r"""The value upon arrival, :math:`U(s', o) = (1 - \beta(s', o))\,Q(s', o) + \beta(s', o)\,V(s')`.

    Shape: three of ``(N,) -> (N,)``.
    Source: Bacon et al. 2017, arXiv:1609.05140, equation 3. Departs from it: no.

    >>> arrival_value(np.array([4.0]), np.array([8.0]), np.array([0.25])).tolist()
    [5.0]
    """
    return option_value + beta * (state_value - option_value)


def log_policy_gradient(probabilities: Array, action: Integers) -> Array:
    r"""The gradient of :math:`\log \pi(a)` by the logits of a softmax: :math:`[i = a] - \pi_i`.

    Shape: ``(N, n), (N,) -> (N, n)``.

    >>> log_policy_gradient(np.array([[0.25, 0.75]]), np.array([0])).tolist()
    [[0.75, -0.75]]
    """
    gradient = -probabilities
    gradient[np.arange(len(action)), action] += 1
    return gradient


def entropy_gradient(probabilities: Array) -> Array:
    r"""The gradient of the entropy :math:`H` by the logits of a softmax: :math:`-\pi_i (\log \pi_i + H)`.

    Shape: ``(N, n) -> (N, n)``.

    >>> entropy_gradient(np.array([[0.5, 0.5], [0.0, 1.0]])).tolist()
    [[-0.0, -0.0], [-0.0, -0.0]]
    """
    logs = np.log(np.where(probabilities > 0, probabilities, 1.0))
    entropy = -(probabilities * logs).sum(-1, keepdims=True)
    return -probabilities * (logs + entropy)


def termination_gradient(
    beta: Array, option_value: Array, state_value: Array, *, margin: float = 0.0
) -> Array:
    r"""The gradient of the termination loss by the logit of :math:`\beta(s', o)`, to be descended:

    .. math:: \beta (1 - \beta) \bigl(Q(s', o) - V(s') + \xi\bigr)

    An option better than the choice afresh ends less. State and option are those of the arrival: where the
    step led, and what acted until then.

    Args:
        beta: the probability that the option ends.
        option_value: :math:`Q(s', o)`, a constant.
        state_value: :math:`V(s')`, a constant.
        margin: :math:`\xi`, the deliberation cost of a switch, as a margin that an alternative must exceed.

    Shape: three of ``(N,) -> (N,)``.
    Source: Bacon et al. 2017, arXiv:1609.05140, theorem 2; margin Harb et al. 2018, arXiv:1709.04571.
    Departs from them: no.

    >>> termination_gradient(np.array([0.5]), np.array([3.0]), np.array([1.0]), margin=2.0).tolist()
    [1.0]
    """
    return beta * (1 - beta) * (option_value - state_value + margin)

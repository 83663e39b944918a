"""The losses of the deep option-critic, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def soft_option_value(values: Tensor, epsilon: float) -> Tensor:
    r"""The value of an :math:`\epsilon`-greedy choice: :math:`(1-\epsilon) \max_o Q_o + \epsilon\,\tfrac1O
    \sum_o Q_o`.

    Shape: ``(..., O) -> (...)``.
    Source: Bacon et al. 2017, arXiv:1609.05140, for a policy over options that is epsilon-greedy.

    >>> soft_option_value(torch.tensor([1.0, 3.0]), 0.5)
    tensor(2.5000)
    """
    best = values.amax(-1)
    return best + epsilon * (values.mean(-1) - best)


def value_upon_arrival(option_value: Tensor, state_value: Tensor, beta: Tensor) -> Tensor:
    r"""The value upon arrival, :math:`U(s', o) = (1 - \beta(s', o))\,Q(s', o) + \beta(s', o)\,V(s')`.

    Shape: three of the same.
    Source: Bacon et al. 2017, arXiv:1609.05140, equation 3. Departs from it: no.

    >>> value_upon_arrival(torch.tensor(4.0), torch.tensor(8.0), torch.tensor(0.25))
    tensor(5.)
    """
    return option_value + beta * (state_value - option_value)


def option_advantages(
    rewards: Tensor,
    values: Tensor,
    arrival_values: Tensor,
    *,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    r"""Generalised advantages of actions under the options that took them.

    .. math::
        \delta_t &= r_{t+1} + \gamma\,(1 - d_{t+1})\,U(s_{t+1}, o_t) - Q(s_t, o_t)

        A_t &= \delta_t + \gamma \lambda\,(1 - e_{t+1})\,A_{t+1}

    where :math:`d` is termination and :math:`e` the end of an episode by termination or truncation.

    Args:
        rewards: :math:`r_{t+1}`, without the deliberation cost.
        values: :math:`Q(s_t, o_t)`.
        arrival_values: :math:`U(s_{t+1}, o_t)`, at the state where the step led.
        terminated, truncated: booleans.
        gamma: :math:`\gamma`.
        gae_lambda: :math:`\lambda`.

    Shape: five of ``(T, N) -> (T, N)``.
    Source: Schulman et al. 2016, arXiv:1506.02438, equation 16, with the values of options as in Klissarov
    et al. 2017, arXiv:1712.00004. Departs from them: the value upon arrival is in expectation of whether the
    option ends.

    >>> steps = torch.tensor([[1.0], [2.0]])
    >>> ends = torch.tensor([[False], [True]]), torch.zeros(2, 1, dtype=torch.bool)
    >>> option_advantages(
    ...     steps,
    ...     torch.ones(2, 1),
    ...     4 * torch.ones(2, 1),
    ...     terminated=ends[0],
    ...     truncated=ends[1],
    ...     gamma=0.5,
    ...     gae_lambda=1.0,
    ... )[:, 0].tolist()
    [2.5, 1.0]
    """
    errors = rewards + gamma * (~terminated * arrival_values) - values
    goes_on = ~(terminated | truncated)
    advantages = torch.empty_like(errors)
    following = torch.zeros_like(errors[0]) if len(errors) else errors
    for t in reversed(range(len(errors))):
        following = errors[t] + gamma * gae_lambda * (goes_on[t] * following)
        advantages[t] = following
    return advantages


def policy_gradient_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    r"""The loss of each step for the intra-option policy: :math:`-\log \pi(a \mid s, o)\,A`.

    Shape: two of ``(N,) -> (N,)``; ``advantage`` is a constant.
    Source: Bacon et al. 2017, arXiv:1609.05140, theorem 1, with a baseline. Departs from it: no.

    >>> policy_gradient_loss(torch.tensor([-0.5]), torch.tensor([2.0]))
    tensor([1.])
    """
    return -log_prob * advantage.detach()


def clipped_policy_loss(log_prob: Tensor, advantage: Tensor, *, old_log_prob: Tensor, clip: float) -> Tensor:
    r"""PPO's loss of each step, of the ratio :math:`\rho = \pi / \pi_{old}` of an option's policy:

    .. math:: -\min\bigl(\rho A,\; \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon)\,A\bigr)

    Shape: three of ``(N,) -> (N,)``; ``advantage`` and ``old_log_prob`` are constants.
    Source: Schulman et al. 2017, arXiv:1707.06347, equation 7; for options Klissarov et al. 2017,
    arXiv:1712.00004. Departs from them: no.

    >>> old = torch.zeros(2)
    >>> clipped_policy_loss(
    ...     torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, -1.0]), old_log_prob=old, clip=0.2
    ... )
    tensor([-0.5000,  0.8000])
    """
    advantage, ratio = advantage.detach(), (log_prob - old_log_prob.detach()).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def termination_loss(
    beta: Tensor, option_value: Tensor, state_value: Tensor, *, margin: float = 0.0
) -> Tensor:
    r"""The loss of each arrival whose descent is the termination gradient:

    .. math:: \beta(s', o)\,\bigl(Q(s', o) - V(s') + \xi\bigr)

    The sign is plus: where going on is better than choosing afresh, the option ends less. State and option
    are those of one arrival: where the step led, and what acted until then. The values are constants, so that
    nothing of it reaches the critic.

    Args:
        beta: the probability that the option ends.
        option_value, state_value: :math:`Q(s', o)` and :math:`V(s')`.
        margin: :math:`\xi`, by how much another option must be better.

    Shape: three of ``(N,) -> (N,)``.
    Source: Bacon et al. 2017, arXiv:1609.05140, theorem 2; margin Harb et al. 2018, arXiv:1709.04571.
    Departs from them: no.

    >>> termination_loss(torch.tensor([0.5]), torch.tensor([3.0]), torch.tensor([1.0]), margin=2.0)
    tensor([2.])
    """
    return beta * (option_value - state_value + margin).detach()


def mean_over(values: Tensor, where: Tensor) -> Tensor:
    """The mean of the values at booleans, 0 without any; what lies elsewhere may be NaN or infinite.

    Shape: two of the same ``-> ()``.

    >>> mean_over(torch.tensor([1.0, torch.nan]), torch.tensor([True, False]))
    tensor(1.)
    """
    return torch.where(where, values, 0.0).sum() / where.sum().clamp(min=1)


def of_option(values: Tensor, option: Tensor) -> Tensor:
    """The entry of an option in each row.

    Shape: ``(N, O, ...), (N,) -> (N, ...)``.

    >>> of_option(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0]))
    tensor([2., 3.])
    """
    return values[torch.arange(len(option), device=option.device), option]


def mlp(widths: Sequence[int]) -> torch.nn.Sequential:
    """Linear layers with tanh after each.

    >>> len(mlp([3, 8, 8]))
    4
    """
    layers: list[torch.nn.Module] = []
    for before, after in pairwise(widths):
        layers += [torch.nn.Linear(before, after), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers)

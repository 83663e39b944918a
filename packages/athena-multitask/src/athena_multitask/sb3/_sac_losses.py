"""The losses of soft actor-critic, one a task."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def soft_targets(
    rewards_t: Tensor,
    terminated_t: Tensor,
    values_tp1: Tensor,
    log_probs_tp1: Tensor,
    *,
    temperatures: Tensor,
    gamma: float | Tensor,
) -> Tensor:
    r"""What the critics of each task learn,
    :math:`y = r_t + \gamma (1 - d_t) (Q'(s_{t+1}, a') - \alpha_k \log \pi(a' | s_{t+1}))`.

    Args:
        rewards_t, terminated_t: of the transitions; the end of a time limit is no termination.
        values_tp1: the least of the target critics, at an action ``a'`` of the policy.
        log_probs_tp1: of that action.
        temperatures: :math:`\alpha`, ``(tasks, 1)``.
        gamma: the discount.

    Shape: each ``(tasks, samples)``.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, eq. 3 and 6; a temperature a task Yu et al. 2019,
    arXiv:1910.10897, appendix on multi-task SAC. Departs from them: no.

    >>> import torch
    >>> one = torch.ones(2, 1)
    >>> soft_targets(one, 0 * one, 4 * one, -one, temperatures=torch.tensor([[0.0], [1.0]]), gamma=0.5)
    tensor([[3.0000],
            [3.5000]])
    """
    return rewards_t + (1 - terminated_t) * gamma * (values_tp1 - temperatures * log_probs_tp1)


def critic_losses(values: Sequence[Tensor], targets: Tensor) -> Tensor:
    r"""Half the mean squared errors of all critics, of each task.

    .. math:: L_k = \tfrac{1}{2} \sum_i \operatorname{mean}_j (Q_i(s_{kj}, a_{kj}) - y_{kj})^2

    Shape: each of the values and the targets ``(tasks, samples)``; losses ``(tasks,)``.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, eq. 5. Departs from it: no.

    >>> import torch
    >>> critic_losses([torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]])], torch.zeros(1, 2))
    tensor([2.5000])
    """
    return 0.5 * sum(((value - targets) ** 2).mean(1) for value in values)  # pyright: ignore[reportReturnType]


def actor_losses(values: Tensor, log_probs: Tensor, *, temperatures: Tensor) -> Tensor:
    r""":math:`L_k = \operatorname{mean}_j (\alpha_k \log \pi(a_{kj} | s_{kj}) - Q(s_{kj}, a_{kj}))`.

    Shape: values and log-probabilities ``(tasks, samples)``, temperatures ``(tasks, 1)``; losses
    ``(tasks,)``.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, eq. 7. Departs from it: no.

    >>> import torch
    >>> actor_losses(torch.ones(2, 3), -torch.ones(2, 3), temperatures=torch.tensor([[0.0], [2.0]]))
    tensor([-1., -3.])
    """
    return (temperatures * log_probs - values).mean(1)


def temperature_losses(log_temperatures: Tensor, log_probs: Tensor, *, target_entropy: float) -> Tensor:
    r""":math:`L_k = -\log \alpha_k \operatorname{mean}_j (\log \pi(a_{kj} | s_{kj}) + \bar{\mathcal H})`.

    Shape: temperatures ``(tasks,)``, log-probabilities ``(tasks, samples)``; losses ``(tasks,)``.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, eq. 18. Departs from it: the logarithm of the temperature
    stands for the temperature, as Stable-Baselines3 has it.

    >>> import torch
    >>> temperature_losses(torch.tensor([1.0, 2.0]), torch.ones(2, 3), target_entropy=-4.0)
    tensor([3., 6.])
    """
    return -log_temperatures * (log_probs + target_entropy).detach().mean(1)

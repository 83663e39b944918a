"""FeUdal networks' two objectives, of directions in a latent space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def transition_policy_loss(
    latent_t: Tensor, latent_tpc: Tensor, goal_t: Tensor, advantage_t: Tensor, mask_t: Tensor
) -> Tensor:
    r"""The manager's loss, whose gradient is that of a policy over directions of the next ``c`` steps.

    .. math:: \nabla g_t = A^M_t\, \nabla_\theta d_{\cos}\bigl(s_{t+c} - s_t,\ g_t(\theta)\bigr)

    Neither the latent states nor the advantage have a gradient. Steps whose ``c`` followers lie in another
    episode, or are not known yet, are masked; the loss is the mean of the others, 0 if there is none.

    Args:
        latent_t, latent_tpc: latent states, and those ``c`` steps later.
        goal_t: directions that the manager set.
        advantage_t: return less the manager's value.
        mask_t: 1 where ``latent_tpc`` is of the same episode.

    Shape: three of ``(..., D)``, two of ``(...)``; a scalar.
    Source: Vezhnevets et al. 2017, arXiv:1703.01161, equation 7. Departs from it: no.

    >>> latent_t, latent_tpc = torch.zeros(1, 2), torch.tensor([[3.0, 0.0]])
    >>> goal_t, one = torch.tensor([[0.6, 0.8]]), torch.ones(1)
    >>> transition_policy_loss(latent_t, latent_tpc, goal_t, 2 * one, one)
    tensor(-1.2000)
    """
    cosine = F.cosine_similarity((latent_tpc - latent_t).detach(), goal_t, dim=-1)
    return -(advantage_t.detach() * cosine * mask_t).sum() / mask_t.sum().clamp(min=1)


def feudal_reward(latent_t: Tensor, latents: Tensor, goals: Tensor, mask: Tensor) -> Tensor:
    r"""The worker's intrinsic reward: how far it went in the directions of the last ``c`` goals.

    .. math:: r^I_t = \frac1c \sum_{i=1}^{c} d_{\cos}(s_t - s_{t-i},\ g_{t-i})

    Args:
        latent_t: the latent state that was reached.
        latents, goals: those of the ``c`` steps before, in any order.
        mask: 1 for those of the same episode.

    Shape: ``(B, D), (B, C, D), (B, C, D), (B, C) -> (B,)``.
    Source: Vezhnevets et al. 2017, arXiv:1703.01161, equation 8. Departs from it: no (steps before the
    episode count 0).

    >>> latents, goals = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> feudal_reward(torch.tensor([[2.0, 0.0]]), latents, goals, torch.ones(1, 2))
    tensor([0.5000])
    """
    cosine = F.cosine_similarity(latent_t[:, None] - latents, goals, dim=-1)
    return (cosine * mask).mean(1)


def discounted_returns(reward_tp1: Tensor, discount_tp1: Tensor, bootstrap_tp1: Tensor) -> Tensor:
    r"""Returns of a rollout, cut where episodes were.

    .. math:: G_t = r_{t+1} + \gamma_{t+1} G_{t+1} + b_{t+1}

    Args:
        reward_tp1: of each step.
        discount_tp1: 0 where an episode ended, by either.
        bootstrap_tp1: :math:`\gamma V` of the state reached where an episode was truncated or the rollout
            ends, else 0.

    Shape: three of ``(T, B) -> (T, B)``.
    Source: Mnih et al. 2016, arXiv:1602.01783, algorithm S3. Departs from it: truncation is bootstrapped.

    >>> ones = torch.ones(3, 1)
    >>> discounted_returns(ones, torch.tensor([[0.5], [0.0], [0.0]]), torch.tensor([[0.0], [0.0], [4.0]])).T
    tensor([[1.5000, 1.0000, 5.0000]])
    """
    returns, after = torch.empty_like(reward_tp1), torch.zeros_like(reward_tp1[0])
    for step in reversed(range(len(reward_tp1))):
        after = reward_tp1[step] + discount_tp1[step] * after + bootstrap_tp1[step]
        returns[step] = after
    return returns

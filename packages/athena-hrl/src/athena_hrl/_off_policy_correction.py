"""HIRO's off-policy correction: the subgoal under which today's worker would have done what was done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from athena_hrl._goal_transition import rolled_subgoals


class WorkerPath(NamedTuple):
    """What the worker saw and did under ``B`` subgoals, at most ``C`` steps each.

    >>> WorkerPath(torch.zeros(1, 2, 3), torch.zeros(1, 2, 1), torch.ones(1, 2), torch.zeros(1, 3)).mask
    tensor([[1., 1.]])
    """

    states: Tensor  # (B, C, S): s_t to s_{t+c-1}
    actions: Tensor  # (B, C, A)
    mask: Tensor  # (B, C): 1 where there was a step, 0 after an early end
    last_state: Tensor  # (B, S): s_{t+c}, or the last one of an early end


def subgoal_candidates(
    subgoal: Tensor, displacement: Tensor, noise: Tensor, *, limit: Tensor, spread: float = 0.5
) -> Tensor:
    r"""The original subgoal, where the worker went, and Gaussians around that; all within the limits.

    .. math:: \{g_t,\ \hat s_{t+c} - \hat s_t\} \cup \{\hat s_{t+c} - \hat s_t + \sigma L \epsilon_k\}

    Args:
        subgoal: that was set, always the first candidate.
        displacement: :math:`\hat s_{t+c} - \hat s_t`.
        noise: standard normal :math:`\epsilon`, ``K`` of them a row; 8 in the paper.
        limit: :math:`L`, the largest subgoal of each dimension.
        spread: :math:`\sigma`.

    Shape: ``(B, G), (B, G), (B, K, G), (G,) -> (B, K + 2, G)``.
    Source: Nachum et al. 2018, arXiv:1805.08296, section 3.3. Departs from it: ``spread`` is chosen here.

    >>> subgoal_candidates(
    ...     torch.tensor([[1.0]]), torch.tensor([[9.0]]), torch.tensor([[[-4.0]]]), limit=torch.tensor([5.0])
    ... )
    tensor([[[ 1.],
             [ 5.],
             [-1.]]])
    """
    near = displacement[:, None] + spread * limit * noise
    candidates = torch.cat((subgoal[:, None], displacement[:, None], near), 1)
    return torch.minimum(torch.maximum(candidates, -limit), limit)


def subgoal_scores(
    candidates: Tensor,
    path: WorkerPath,
    policy: Callable[[Tensor, Tensor], Tensor],
    *,
    goal_dims: Sequence[int],
) -> Tensor:
    r"""How likely the worker takes its actions under each candidate, up to a constant.

    .. math:: \log \mu^{lo}(a_{t:t+c-1} \mid s_{t:t+c-1}, \tilde g_{t:t+c-1}) \propto
        -\tfrac12 \sum_{i=t}^{t+c-1} \lVert a_i - \mu^{lo}(s_i, \tilde g_i) \rVert_2^2 + \text{const}

    with :math:`\tilde g_{i+1} = h(s_i, \tilde g_i, s_{i+1})`: a candidate is rolled along the path before it
    is scored. Steps after an early end count nothing.

    Args:
        candidates: at the first step.
        path: of the worker.
        policy: the worker's mean action for states and subgoals, ``(M, S), (M, G) -> (M, A)``.
        goal_dims: of subgoals in states.

    Shape: ``(B, K, G) -> (B, K)``.
    Source: Nachum et al. 2018, arXiv:1805.08296, section 3.3. Departs from it: no.

    >>> path = WorkerPath(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), torch.ones(1, 1), torch.ones(1, 1))
    >>> subgoal_scores(torch.tensor([[[1.0], [3.0]]]), path, lambda state, goal: goal, goal_dims=[0])
    tensor([[-0., -2.]])
    """
    rolled = rolled_subgoals(candidates, path.states[..., list(goal_dims)])  # (B, K, C, G)
    states = path.states[:, None].expand(-1, rolled.shape[1], -1, -1)
    actions = policy(states.flatten(0, 2), rolled.flatten(0, 2)).unflatten(0, rolled.shape[:3])
    errors = (path.actions[:, None] - actions).square().sum(-1)
    return -0.5 * (errors * path.mask[:, None]).sum(-1)


def corrected_subgoals(
    subgoal: Tensor,
    path: WorkerPath,
    policy: Callable[[Tensor, Tensor], Tensor],
    *,
    noise: Tensor,
    limit: Tensor,
    goal_dims: Sequence[int],
    spread: float = 0.5,
) -> Tensor:
    """The candidate of `subgoal_candidates` with the best of `subgoal_scores`; of equals the first.

    Args: as those of both functions.

    Shape: ``(B, G) -> (B, G)``.
    Source: Nachum et al. 2018, arXiv:1805.08296, section 3.3. Departs from it: no.

    >>> path = WorkerPath(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), torch.ones(1, 1), torch.ones(1, 1))
    >>> options = {"noise": torch.zeros(1, 8, 1), "limit": torch.tensor([5.0]), "goal_dims": [0]}
    >>> corrected_subgoals(torch.tensor([[3.0]]), path, lambda state, goal: goal, **options)
    tensor([[1.]])
    """
    dims = list(goal_dims)
    displacement = path.last_state[:, dims] - path.states[:, 0, dims]
    candidates = subgoal_candidates(subgoal, displacement, noise, limit=limit, spread=spread)
    best = subgoal_scores(candidates, path, policy, goal_dims=goal_dims).argmax(1)
    return candidates[torch.arange(len(best), device=best.device), best]

"""HIRO's goal transition: a relative subgoal that names the same place at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Numbers = TypeVar("Numbers", Tensor, NDArray[np.floating])


def goal_transition(
    state_t: Numbers, subgoal_t: Numbers, state_tp1: Numbers, *, goal_dims: Sequence[int]
) -> Numbers:
    r"""The subgoal after a step, so that the place it names stays: :math:`s_t + g_t` is that of all steps.

    .. math:: h(s_t, g_t, s_{t+1}) = \hat s_t + g_t - \hat s_{t+1}

    with :math:`\hat s` the dimensions of the state in which subgoals are set. A subgoal is a displacement:
    the worker is asked to be at :math:`\hat s_t + g_t`.

    Args:
        state_t, state_tp1: whole states.
        subgoal_t: the subgoal before the step.
        goal_dims: dimensions of the state, as many as a subgoal has, in its order.

    Shape: ``(..., S), (..., G), (..., S) -> (..., G)``; tensors or arrays.
    Source: Nachum et al. 2018, arXiv:1805.08296, section 3. Departs from it: no.

    >>> state_t, state_tp1 = np.array([0.0, 0.0, 9.0]), np.array([1.0, 0.5, 7.0])
    >>> goal_transition(state_t, np.array([3.0, 0.0]), state_tp1, goal_dims=[0, 1])
    array([ 2. , -0.5])
    """
    dims = list(goal_dims)
    return state_t[..., dims] + subgoal_t - state_tp1[..., dims]


def rolled_subgoals(subgoals: Tensor, places: Tensor) -> Tensor:
    r"""What each candidate subgoal becomes along a path: :math:`h` step by step, which telescopes.

    .. math:: g_{t+i} = h(s_{t+i-1}, g_{t+i-1}, s_{t+i}) = \hat s_t + g_t - \hat s_{t+i}

    Args:
        subgoals: ``K`` candidates at the first step of each path.
        places: the goal dimensions of the states of ``C`` steps.

    Shape: ``(B, K, G), (B, C, G) -> (B, K, C, G)``.
    Source: Nachum et al. 2018, arXiv:1805.08296, section 3. Departs from it: no.

    >>> import torch
    >>> rolled_subgoals(torch.tensor([[[5.0]]]), torch.tensor([[[0.0], [1.0], [3.0]]]))[0, 0, :, 0]
    tensor([5., 4., 2.])
    """
    return subgoals[:, :, None] + (places[:, :1] - places)[:, None]

"""UPGrad: the mean of the gradients, each projected so that it harms no task."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from athena_multitask._balancer import Balancer
from athena_multitask._cosines import cosines_of, weights_like
from athena_multitask._nonnegative_quadratic import nonnegative_minimum


class UPGrad(Balancer):
    """Unconflicting projection of gradients: see `upgrad_weights`.

    >>> import torch
    >>> UPGrad().direction(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([0.2500, 0.7500])
    """

    laws: ClassVar[frozenset[str]] = frozenset({"permutation", "scaling", "non-conflict", "stationary"})

    def weights(self, gramian: Tensor) -> Tensor:
        """Weights of the tasks, ``(tasks,)``."""
        return upgrad_weights(gramian)


def upgrad_weights(gramian: Tensor) -> Tensor:
    r"""Weights whose direction is the mean of the gradients, each projected on the dual cone of all.

    .. math:: d = \frac1n \sum_i \pi(g_i), \qquad \pi(g) = \arg\min_{d} \|d - g\|^2
        \ \text{subject to}\ J d \ge 0

    By duality :math:`\pi(g_i) = J^\top v_i` where :math:`v_i` minimises :math:`v^\top G v` over
    :math:`v \ge e_i`, and the weights are the mean of all :math:`v_i`. These are solved for unit gradients,
    projections being as much longer as their gradients. No task is harmed by the direction.

    Args:
        gramian: inner products of the tasks' gradients. Where gradients are dependent the direction is one,
            its weights are not; a gradient of zero has the weight ``1 / tasks``.

    Shape: ``(tasks, tasks) -> (tasks,)``.

    Raises ValueError for a Gramian that is not square or not finite.

    Source: Quinton and Rey 2024, Jacobian descent for multi-objective optimization, arXiv:2406.16232,
    proposition 1. Departs from it: no.

    >>> import torch
    >>> upgrad_weights(torch.tensor([[1.0, -1.0], [-1.0, 2.0]]))
    tensor([1.0000, 0.7500])
    """
    cosines, lengths, resolution = cosines_of(gramian)
    raised = nonnegative_minimum(cosines, cosines, resolution=resolution)
    weights = lengths + lengths @ raised
    zero = lengths == 0
    weights[zero], lengths[zero] = 1.0, 1.0
    return weights_like(weights / (lengths * len(weights)), gramian)

"""IMTL-G: the direction with equal projections on all gradients."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from athena_multitask._balancer import Balancer
from athena_multitask._cosines import cosines_of, weights_like


class IMTLG(Balancer):
    r"""Weights, of sum 1, whose direction has equal projections on the gradients of all tasks.

    .. math:: d = \sum_i \alpha_i g_i, \qquad d^\top u_i = d^\top u_j, \quad u_i = g_i / \|g_i\|, \qquad
        \sum_i \alpha_i = 1

    so that :math:`\alpha_i \propto (C^{+} 1)_i / \|g_i\|` with the cosines :math:`C` of the gradients.
    Weights may be negative. They are all zero where they would sum to zero.

    Shape: see `Balancer`.

    Raises ValueError for a Gramian that is not finite.

    Source: Liu et al. 2021, Towards impartial multi-task learning, ICLR, IMTL-G. Departs from it:
    gradients may depend on each other, by the pseudoinverse of their cosines; zero gradients have weight 0.

    >>> import torch
    >>> IMTLG().direction(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    tensor([0.6667, 0.6667])
    """

    laws: ClassVar[frozenset[str]] = frozenset({"permutation", "scaling"})

    def weights(self, gramian: Tensor) -> Tensor:
        return imtl_g_weights(gramian)


def imtl_g_weights(gramian: Tensor) -> Tensor:
    """The weights of `IMTLG`.

    Shape: ``(tasks, tasks) -> (tasks,)``.

    Raises ValueError for a Gramian that is not square or not finite.

    >>> import torch
    >>> imtl_g_weights(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.3333, 0.6667])
    """
    cosines, lengths, resolution = cosines_of(gramian)
    some = lengths > 0
    weights = np.zeros(len(lengths))
    if some.any():
        inverse = np.linalg.pinv(cosines[np.ix_(some, some)], rcond=resolution, hermitian=True)
        projected = inverse.sum(1)
        chosen = projected / lengths[some]
        total = chosen.sum()
        if abs(total) > resolution * abs(chosen).sum() and abs(projected).max() > resolution:
            weights[some] = chosen / total
    return weights_like(weights, gramian)

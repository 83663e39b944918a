"""Aligned-MTL: the principal components of the gradients, made equally long."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from athena_multitask._balancer import Balancer
from athena_multitask._cosines import cosines_of, weights_like


class AlignedMTL(Balancer):
    r"""Scale all singular values of the matrix of gradients to the smallest, and take the mean of its rows.

    .. math:: G = V \Lambda V^\top, \qquad
        \alpha = \sqrt{\lambda_{\min}}\, V \Lambda^{-1/2} V^\top \tfrac{1}{T} \mathbf{1}, \qquad
        d = J^\top \alpha

    over the eigenvalues that are not zero, as far as the gradients' precision tells.

    Shape: see `Balancer`.

    Raises ValueError for a Gramian that is not finite.

    Source: Senushkin et al. 2023, Independent component alignment for multi-task learning, CVPR,
    arXiv:2305.19000, algorithm 1. Departs from it: tasks have equal weights.

    >>> AlignedMTL().direction(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    tensor([0.5000, 0.5000])
    """

    laws: ClassVar[frozenset[str]] = frozenset({"permutation", "scaling"})

    def weights(self, gramian: Tensor) -> Tensor:
        return aligned_mtl_weights(gramian)


def aligned_mtl_weights(gramian: Tensor) -> Tensor:
    """The weights; eigenvalues below the resolution of the gradients' numbers count as zero.

    Shape: ``(tasks, tasks) -> (tasks,)``.

    Raises ValueError for a Gramian that is not square or not finite.

    >>> aligned_mtl_weights(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.2500, 0.5000])
    """
    cosines, lengths, _ = cosines_of(gramian)
    longest = max(lengths.max(), np.finfo(np.float64).tiny)
    relative = lengths / longest
    values, vectors = np.linalg.eigh(cosines * relative[:, None] * relative)
    kept = values > len(lengths) * torch.finfo(gramian.dtype).eps * max(values[-1], 0)
    weights = np.full(len(lengths), 1 / len(lengths))
    if kept.any():  # else all gradients are zero, and so is their mean
        values, vectors = values[kept], vectors[:, kept]
        weights = vectors @ (np.sqrt(values[0] / values) * (vectors.T @ weights))
    return weights_like(weights, gramian)

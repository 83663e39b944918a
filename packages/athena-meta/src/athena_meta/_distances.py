"""Similarities of queries to what stands for each class: larger is nearer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from athena_meta._prototypes import class_means

# Below this length a vector has no direction to speak of.
_SHORTEST = 1e-8


def squared_euclidean(query: Tensor, prototypes: Tensor) -> Tensor:
    r"""Minus the squared distance, :math:`-\|q - c\|^2`.

    By a product of matrices, about the mean of the prototypes, so that a large common offset costs no digits.

    Shape: ``(..., n_query, features)`` and ``(..., n_way, features)`` -> ``(..., n_query, n_way)``.
    Source: Snell et al. 2017, arXiv:1703.05175, eq. 2 and section 2.4. Departs from it: no.

    >>> squared_euclidean(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist()
    [[-25.0, 0.0]]
    """
    middle = prototypes.mean(-2, keepdim=True)
    query, prototypes = query - middle, prototypes - middle
    lengths = query.square().sum(-1).unsqueeze(-1) + prototypes.square().sum(-1).unsqueeze(-2)
    return 2 * query @ prototypes.mT - lengths


def unit(x: Tensor) -> Tensor:
    """Vectors along the last axis at length 1; those shorter than 1e-8 as they are, with a gradient of 1.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(length > _SHORTEST, length, 1)


def cosine(query: Tensor, prototypes: Tensor) -> Tensor:
    r"""Cosine of the angle, :math:`q \cdot c / (\|q\| \|c\|)`; 0 with a zero vector, gradients finite.

    Shape: ``(..., n_query, features)`` and ``(..., n_way, features)`` -> ``(..., n_query, n_way)``.
    Source: Vinyals et al. 2016, arXiv:1606.04080, section 2.1. Departs from it: at zero vectors.

    >>> cosine(torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    return unit(query) @ unit(prototypes).mT


def class_covariances(features: Tensor, ranks: Tensor, n_way: int) -> Tensor:
    r"""Covariance of each class, drawn towards that of the task and regularised.

    .. math:: Q_k = \lambda_k \Sigma_k + (1 - \lambda_k)\,\Sigma + I, \qquad \lambda_k = |S_k| / (|S_k| + 1)

    with the unbiased covariances :math:`\Sigma_k` of the class and :math:`\Sigma` of the whole support set,
    zero where there is one example.

    Shape: ``(tasks, n_support, features)`` and ranks ``(tasks, n_support)`` ->
    ``(tasks, n_way, features, features)``.
    Source: Bateni et al. 2020, arXiv:1912.03432, section 4, with :math:`\beta = 1`. Departs from it: no.

    >>> x = torch.tensor([[[0.0], [2.0], [4.0]]])
    >>> class_covariances(x, torch.tensor([[0, 0, 1]]), 2).flatten()  # of the classes 2 and 0, of all 4
    tensor([3.6667, 3.0000])
    """
    members = F.one_hot(ranks, n_way).to(features.dtype)  # (tasks, n_support, n_way)
    counts = members.sum(1)
    means = class_means(features, ranks, n_way)
    centred = features - means.gather(1, ranks.unsqueeze(-1).expand_as(features))
    of_class = (members.mT.unsqueeze(-1) * centred.unsqueeze(1)).mT @ centred.unsqueeze(1)
    of_class = of_class / (counts - 1).clamp_min(1)[..., None, None]
    centred = features - features.mean(1, keepdim=True)
    of_task = centred.mT @ centred / max(features.shape[1] - 1, 1)
    share = (counts / (counts + 1))[..., None, None]
    identity = torch.eye(features.shape[-1], dtype=features.dtype, device=features.device)
    return share * of_class + (1 - share) * of_task.unsqueeze(1) + identity


def mahalanobis(query: Tensor, prototypes: Tensor, factors: Tensor) -> Tensor:
    r"""Minus half the squared Mahalanobis distance, :math:`-\tfrac12 (q - c_k)^\top Q_k^{-1} (q - c_k)`.

    Args:
        query: features of the queries.
        prototypes: the mean of each class.
        factors: lower Cholesky factors of the classes' covariances.

    Shape: ``(tasks, n_query, features)``, ``(tasks, n_way, features)`` and ``(tasks, n_way, features,
    features)`` -> ``(tasks, n_query, n_way)``.
    Source: Bateni et al. 2020, arXiv:1912.03432, section 4. Departs from it: no.

    >>> x, c = torch.tensor([[[2.0, 0.0]]]), torch.zeros(1, 1, 2)
    >>> mahalanobis(x, c, torch.diag(torch.tensor([2.0, 1.0]))[None, None])
    tensor([[[-0.5000]]])
    """
    differences = query.unsqueeze(1) - prototypes.unsqueeze(2)  # (tasks, n_way, n_query, features)
    white = torch.linalg.solve_triangular(factors, differences.mT, upper=False)
    return -0.5 * white.square().sum(-2).mT

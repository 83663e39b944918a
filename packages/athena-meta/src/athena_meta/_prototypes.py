"""Prototypes: the mean of each class, whatever its labels are and however they are ordered."""

from __future__ import annotations

import torch
from torch import Tensor

from athena_meta._labels import row_ranks


def label_ranks(labels: Tensor) -> tuple[Tensor, int]:
    r"""Ranks :math:`0 \ldots n-1` of labels among the sorted labels of their task, and :math:`n`.

    Shape: ``(..., n_support)`` -> the same, int64. Raises ValueError for no labels, and where tasks differ in
    their number of classes, naming one.

    >>> label_ranks(torch.tensor([[7, 3, 7], [3, 3, 9]]))
    (tensor([[1, 0, 1],
            [0, 0, 1]]), 2)
    """
    if not labels.numel():
        raise ValueError(f"`labels` must hold at least one label a task; got shape {tuple(labels.shape)}.")
    _, places, ranks = row_ranks(labels)
    ways = places[..., -1].flatten() + 1
    other = (ways != ways[0]).nonzero()
    if len(other):
        task = int(other[0])
        raise ValueError(
            f"every task of a batch must have as many classes; task 0 has {int(ways[0])} in its support set, "
            f"task {task} has {int(ways[task])}. Put them into batches of their own."
        )
    return ranks, int(ways[0])


def prototypes(features: Tensor, labels: Tensor) -> Tensor:
    r"""The mean of the features of each class, in the order of the sorted labels.

    .. math:: c_k = \frac{1}{|S_k|} \sum_{i \in S_k} f(x_i)

    Args:
        features: of support sets, in any order, of classes with any numbers of examples.
        labels: whole numbers, any; the same number of different ones in each task.

    Shape: ``(..., n_support, *feature)`` and ``(..., n_support)`` -> ``(..., n_way, *feature)``. Raises
    ValueError for shapes that do not agree, and as `label_ranks` does.

    Source: Snell et al. 2017, arXiv:1703.05175, eq. 1. Departs from it: no.

    >>> prototypes(torch.tensor([[0.0, 1.0], [4.0, 4.0], [2.0, 3.0]]), torch.tensor([9, -1, 9]))
    tensor([[4., 4.],
            [1., 2.]])
    """
    if features.shape[: labels.ndim] != labels.shape or not labels.ndim:
        raise ValueError(
            f"`labels` must have one label an example, as `features` of shape "
            f"{tuple(features.shape)} begins; got shape {tuple(labels.shape)}."
        )
    ranks, n_way = label_ranks(labels)
    return class_means(features, ranks, n_way)


def class_means(features: Tensor, ranks: Tensor, n_way: int) -> Tensor:
    """`prototypes` of labels that are ranks already, every one of them there.

    A sum by index, not a product with one-hot labels, through which a NaN would reach the other classes.

    >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([1, 0, 1]), 2)
    tensor([[3.],
            [3.]])
    """
    tasks = ranks.shape[:-1]
    rows = ranks.reshape(-1, ranks.shape[-1])
    rows = (rows + n_way * torch.arange(len(rows), device=rows.device)[:, None]).flatten()
    flat = features.flatten(0, ranks.ndim - 1)
    sums = flat.new_zeros(tasks.numel() * n_way, *flat.shape[1:]).index_add(0, rows, flat)
    counts = torch.bincount(rows, minlength=len(sums)).reshape(-1, *[1] * (flat.ndim - 1))
    return (sums / counts).unflatten(0, (*tasks, n_way))

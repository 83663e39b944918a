"""Labels of any kind as the ranks that losses and columns go by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def ranked(labels: Tensor | Sequence[str] | Sequence[int]) -> tuple[Tensor, tuple[Any, ...]]:
    r"""Ranks :math:`0 \ldots n-1` of labels among the sorted classes, and these classes.

    Args:
        labels: of one task, strings or whole numbers.

    Shape: ``(examples,)`` -> the same, int64, on the device of a tensor. Raises ValueError for no labels, and
    for labels of several kinds.

    >>> ranked(["dog", "cat", "dog"])
    (tensor([1, 0, 1]), ('cat', 'dog'))
    >>> ranked(torch.tensor([7, 3]))[1]
    (3, 7)
    """
    values = labels.tolist() if isinstance(labels, (Tensor, np.ndarray)) else list(labels)
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    if not values:
        raise ValueError("`support_y` must have at least one label; got none. Give the task a support set.")
    kinds = sorted({type(value).__name__ for value in values})
    if kinds not in (["str"], ["int"]):
        raise ValueError(f"`support_y` must be all strings or all whole numbers; got {', '.join(kinds)}.")
    classes = tuple(sorted(set(values)))
    place: dict[Any, int] = {value: rank for rank, value in enumerate(classes)}
    device = labels.device if isinstance(labels, Tensor) else None
    return torch.tensor([place[value] for value in values], device=device), classes


def support_tensor(support_x: Tensor) -> Tensor:
    """Itself. Raises TypeError for what is no tensor."""
    if not isinstance(support_x, Tensor):
        raise TypeError(
            f"`support_x` must be a tensor; got {type(support_x).__name__}. Use torch.as_tensor for an array."
        )
    return support_x


def row_ranks(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The labels of each row in order, the rank of each of these, and the rank of each as it was given.

    Shape: ``(..., n)`` -> three of the same, the ranks int64.

    >>> row_ranks(torch.tensor([[7, 3, 7]]))
    (tensor([[3, 7, 7]]), tensor([[0, 1, 1]]), tensor([[1, 0, 1]]))
    """
    ordered, order = labels.contiguous().sort(dim=-1)
    places = torch.zeros_like(order)
    places[..., 1:] = (ordered[..., 1:] != ordered[..., :-1]).cumsum(-1)
    return ordered, places, torch.empty_like(places).scatter_(-1, order, places)

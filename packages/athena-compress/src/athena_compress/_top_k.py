"""Logits by their largest values alone, and the mass of all others."""

from __future__ import annotations

from math import log
from typing import NamedTuple

import torch
from torch import Tensor


class TopLogits(NamedTuple):
    """The k largest logits of each row, their classes, and the log-sum-exp of the others."""

    values: Tensor
    classes: Tensor
    rest: Tensor


def top_logits(logits: Tensor, k: int) -> TopLogits:
    """The k largest logits, ``(..., classes)`` to ``(..., k)``, and what is left, ``(...)``.

    >>> kept = top_logits(torch.tensor([[0.0, 3.0, 0.0]]), 1)
    >>> kept.values, kept.classes, kept.rest  # log 2
    (tensor([[3.]]), tensor([[1]], dtype=torch.int32), tensor([0.6931]))
    """
    values, classes = logits.topk(k, dim=-1)
    rest = logits.scatter(-1, classes, float("-inf")).logsumexp(-1)
    return TopLogits(values, classes.to(torch.int32), rest)


def restored_logits(top: TopLogits, n_classes: int) -> Tensor:
    """Logits of all classes: the k as they were, all others equal and with the mass that was left.

    The probabilities of the k are exact at temperature 1.

    >>> restored_logits(top_logits(torch.tensor([[0.0, 3.0, 0.0]]), 1), 3)
    tensor([[0., 3., 0.]])
    """
    others = n_classes - top.values.shape[-1]
    even = (top.rest - log(max(others, 1))).unsqueeze(-1).expand(*top.rest.shape, n_classes)
    return even.scatter(-1, top.classes.long(), top.values.to(even.dtype))

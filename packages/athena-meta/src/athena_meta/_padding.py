"""Embeddings with a padding index inside vmap, where torch trains the padding of all tasks but the first."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class PaddingMode(TorchFunctionMode):
    """Within it the padding row of every ``F.embedding`` is a constant, for each task of a vmap.

    torch's rule for batched weights lays the tables of all tasks end to end, and leaves ``padding_idx`` as it
    is: it then names a row of the first task alone.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.embedding:
            given = dict(kwargs or {})
            index = [given.pop("input")] if "input" in given else []
            return _embedding(*index, *args, **given)
        return func(*args, **(kwargs or {}))


def _embedding(
    index: Tensor, weight: Tensor, padding_idx: int | None = None, *more: Any, **named: Any
) -> Tensor:
    rows = F.embedding(index, weight, None, *more, **named)
    if padding_idx is None:
        return rows
    padding = (index == padding_idx % weight.shape[0]).unsqueeze(-1)
    return torch.where(padding, rows.detach(), rows)


def may_pad(network: nn.Module, x: Tensor) -> bool:
    """Whether a network may look up a padding index: it has such an embedding, or takes whole numbers."""
    return not x.is_floating_point() or any(
        isinstance(module, nn.Embedding) and module.padding_idx is not None for module in network.modules()
    )

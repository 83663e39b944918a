"""How much autograd keeps for the backward pass: what a task costs in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Ledger:
    """Bytes of the storages that are kept now, each once, and the most there were."""

    def __init__(self) -> None:
        self.holders: Counter[int] = Counter()
        self.now = self.peak = 0

    def take(self, tensor: Tensor) -> _Kept | Tensor:
        # Leaves are there anyway, and a sparse or fake tensor has no storage to count.
        if tensor.is_leaf and tensor.requires_grad:
            return tensor
        storage = tensor.untyped_storage()
        self.holders[storage.data_ptr()] += 1
        if self.holders[storage.data_ptr()] == 1:
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
        # Detached: what knows its graph, kept by that graph, would be a cycle that nothing collects.
        return _Kept(self, tensor.detach())

    def give(self, kept: Any) -> Tensor:
        return kept.tensor if isinstance(kept, _Kept) else kept


class _Kept:
    """A saved tensor, which leaves the ledger when autograd lets go of it."""

    def __init__(self, ledger: _Ledger, tensor: Tensor) -> None:
        self.ledger, self.tensor = ledger, tensor

    def __del__(self) -> None:
        storage = self.tensor.untyped_storage()
        self.ledger.holders[storage.data_ptr()] -= 1
        if not self.ledger.holders[storage.data_ptr()]:
            self.ledger.now -= storage.nbytes()


def peak_saved_bytes(function: Callable[[], object]) -> int:
    """The most bytes that the graphs made by ``function`` keep at any time while it runs.

    Parameters, which are there anyway, do not count; a storage that several nodes keep counts once.

    >>> x = torch.ones(1000, requires_grad=True)
    >>> peak_saved_bytes(lambda: x.exp().sum().backward())
    4000
    """
    ledger = _Ledger()
    with torch.autograd.graph.saved_tensors_hooks(ledger.take, ledger.give):
        function()
    return ledger.peak

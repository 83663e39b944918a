"""Numbers on the host for tensors of torch's meta device, which holds none itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DEVICE = torch.device("meta")


class Mirrors:
    """The host's view of each device tensor of one op, and the way back.

    A device storage has its numbers in an attribute, which lives as long as it does.
    """

    def __init__(self) -> None:
        self._same: dict[int, tuple[Tensor, Tensor]] = {}
        self._storages: dict[int, torch.UntypedStorage] = {}

    def of(self, leaf: Any) -> Any:
        """``leaf`` on the host, if it is a tensor of the device."""
        if not isinstance(leaf, Tensor) or leaf.device != DEVICE:
            return leaf
        if leaf._is_zerotensor():  # forward-mode differentiation's zeros, of no memory
            return torch._efficientzerotensor(leaf.shape, dtype=leaf.dtype)
        storage = leaf.untyped_storage()
        numbers = storage.numbers  # pyright: ignore[reportAttributeAccessIssue]
        mirror = _viewed(numbers, leaf, torch.device("cpu"))
        self._same[id(mirror)] = mirror, leaf
        self._storages[numbers._cdata] = storage
        return mirror

    def back(self, leaf: Any) -> Any:
        """``leaf`` on the device, if it is a tensor: the same one for what `of` has made."""
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) in self._same:
            return self._same[id(leaf)][1]
        if leaf._is_zerotensor():
            return torch._efficientzerotensor(leaf.shape, dtype=leaf.dtype, device=DEVICE)
        numbers = leaf.untyped_storage()
        storage = self._storages.get(numbers._cdata)
        if storage is None:
            storage = torch.UntypedStorage(numbers.nbytes(), device=DEVICE)
            storage.numbers = numbers  # pyright: ignore[reportAttributeAccessIssue]
            self._storages[numbers._cdata] = storage
        return _viewed(storage, leaf, DEVICE)


def holds_numbers(tensor: Tensor) -> bool:
    """Whether a tensor of the device was made where its numbers are kept."""
    return tensor._is_zerotensor() or hasattr(tensor.untyped_storage(), "numbers")


def _viewed(storage: torch.UntypedStorage, like: Tensor, device: torch.device) -> Tensor:
    """``storage`` seen as ``like`` sees its own."""
    seen = torch.empty(0, dtype=like.dtype, device=device)
    seen.set_(storage, like.storage_offset(), like.size(), like.stride())  # pyright: ignore[reportArgumentType]
    seen = seen.conj() if like.is_conj() else seen
    return torch._neg_view(seen) if like.is_neg() else seen

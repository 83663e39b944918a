"""Tensors that a module keeps, of shapes that are known only once it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn


class Memory(nn.Module):
    """Named tensors of any shape that move, and are saved and loaded, with the module they belong to.

    A buffer's shape must be known when the module is made; the number of environments, of visited states or
    of remembered episodes is not.

    >>> memory = Memory()
    >>> memory["visits"] = torch.ones(3)
    >>> other = Memory()
    >>> other.load_state_dict(memory.state_dict())
    <All keys matched successfully>
    >>> other["visits"]
    tensor([1., 1., 1.])
    """

    def __init__(self) -> None:
        super().__init__()
        self._tensors: dict[str, Tensor] = {}
        self.register_buffer("_here", torch.empty(0), persistent=False)  # says which device this is on

    @property
    def device(self) -> torch.device:
        return self._here.device  # pyright: ignore[reportReturnType]

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        tensor = tensor.detach()
        whole = tensor.untyped_storage().nbytes() <= tensor.nbytes
        self._tensors[name] = tensor if whole else tensor.clone()  # a view keeps, and saves, what it is of

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def get(self, name: str) -> Tensor | None:
        return self._tensors.get(name)

    def clear(self) -> None:
        """Forget all."""
        self._tensors.clear()

    def get_extra_state(self) -> dict[str, Tensor]:
        return dict(self._tensors)

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        self._tensors = {name: tensor.to(self.device).clone() for name, tensor in state.items()}

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **options: Any) -> Self:
        self._tensors = {name: fn(tensor) for name, tensor in self._tensors.items()}
        return super()._apply(fn, *args, **options)

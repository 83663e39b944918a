"""Keys and values of one layer: where they are written, how they are held, what is read back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.compiler import is_exporting

from athena_core import op

if TYPE_CHECKING:
    from athena_nn._cache import Turn


def _samples(
    device: str, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Inputs on which kernels are compared: rows at their own slots, one token, no token, one row."""
    for batch, heads, size, time, width in (
        (2, 3, 9, 4, 8),
        (1, 1, 1, 1, 1),
        (3, 2, 7, 0, 5),
        (4, 2, 33, 1, 64),
    ):
        cache = torch.randn(batch, heads, size, width, generator=generator).to(device, dtype)
        new = torch.randn(batch, time, heads, width, generator=generator).to(device, dtype).transpose(1, 2)
        starts = torch.randint(size - time + 1, (batch, 1), generator=generator)
        yield cache, new, (starts + torch.arange(time)).to(device)


def _kv_cache_update(cache: Tensor, new: Tensor, slots: Tensor) -> None:
    r"""Write each row's new vectors into its slots: ``cache[b, :, slots[b, t]] = new[b, :, t]``, in place.

    Where a slot is named twice in a row, which of the vectors stays is not defined.

    Shape: ``cache (batch, heads, size, width)``, ``new (batch, heads, time, width)``, ``slots (batch,
    time)``, int64 in [0, size).

    >>> cache = torch.zeros(1, 1, 3, 1)
    >>> kv_cache_update(cache, torch.ones(1, 1, 1, 1), torch.tensor([[2]]))
    >>> cache.flatten()
    tensor([0., 0., 1.])
    """
    cache.scatter_(2, slots[:, None, :, None].expand_as(new), new)


kv_cache_update = op(
    "athena_nn::kv_cache_update(Tensor(a!) cache, Tensor new, Tensor slots) -> ()",
    reference=_kv_cache_update,
    samples=_samples,
)


class _Full:
    """Vectors as they are."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> None:
        # zeros: what no mask hides from a weighted sum must not be NaN, even with weight 0
        self.parts = [torch.zeros(shape, dtype=dtype, device=device)]

    def encode(self, x: Tensor) -> list[Tensor]:
        return [x.to(self.parts[0].dtype)]

    def decode(self, parts: list[Tensor], dtype: torch.dtype) -> Tensor:
        return parts[0].to(dtype)


class _Int8:
    """Vectors in 8 bits, with a float32 scale each: the largest magnitude becomes 127."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> None:  # noqa: ARG002
        self.parts = [
            torch.zeros(shape, dtype=torch.int8, device=device),
            torch.zeros((*shape[:-1], 1), dtype=torch.float32, device=device),
        ]

    def encode(self, x: Tensor) -> list[Tensor]:
        x = x.float()
        scale = x.abs().amax(dim=-1, keepdim=True) / 127
        # a vector of zeros has scale 0, and nothing to divide
        return [(x / scale.masked_fill(scale == 0, 1)).round().to(torch.int8), scale]

    def decode(self, parts: list[Tensor], dtype: torch.dtype) -> Tensor:
        return (parts[0] * parts[1]).to(dtype)


class LayerCache:
    """One layer's keys and values, ``(batch, kv_heads, slots + 1, head_dim)`` each.

    Without a window, slot ``i`` holds token ``i`` of its row. With one smaller than the capacity, the
    slots are a ring: token ``i`` stands in slot ``i % window``. What padding writes goes to the last slot,
    which nobody reads.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        capacity: int | None,
        *,
        window: int | None,
        int8: bool,
        dtype: torch.dtype,
        device: torch.device | str | None,
    ) -> None:
        self.ring = window is not None and (capacity is None or window < capacity)
        self.grows = capacity is None and not self.ring
        slots = window if self.ring else 0 if capacity is None else capacity
        assert slots is not None
        batch, heads, width = shape
        store = _Int8 if int8 else _Full
        self.keys = store((batch, heads, slots + 1, width), dtype, device)
        self.values = store((batch, heads, slots + 1, width), dtype, device)

    @property
    def slots(self) -> int:
        return self.keys.parts[0].shape[2] - 1

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.tensors())

    def tensors(self) -> list[Tensor]:
        return [*self.keys.parts, *self.values.parts]

    def adopt(self, tensors: Iterator[Tensor]) -> None:
        for store in (self.keys, self.values):
            store.parts = [next(tensors).clone() for _ in store.parts]

    def clear(self) -> None:
        for part in self.tensors():
            part.zero_()

    def select(self, rows: Tensor) -> None:
        for store in (self.keys, self.values):
            store.parts = [part.index_select(0, rows.to(part.device)) for part in store.parts]

    def append(self, k: Tensor, v: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
        """Write the new tokens, and return all keys and values that this pass may attend to.

        Shape: ``(batch, kv_heads, time, head_dim)`` each -> ``(batch, kv_heads, keys, head_dim)``; `order`
        says which token each of these is. Raises ValueError for other heads, or if gradients are wanted.
        """
        size = self.keys.parts[0].shape
        if k.shape[1] != size[1] or k.shape[3] != size[3]:
            raise ValueError(
                f"`cache` must be for {k.shape[1]} key-value heads of width {k.shape[3]}; "
                f"got one for {size[1]} of width {size[3]}."
            )
        if k.requires_grad and torch.is_grad_enabled() and not is_exporting():
            raise ValueError("`cache` keeps no gradients; decode under `torch.no_grad()`.")
        if self.grows and turn.longest is not None and turn.longest > self.slots:
            self._grow(turn.longest)
        if self.ring and not turn.single:
            return self._append_to_ring(k, v, turn)
        at = self._where(turn)
        return self._write_and_read(self.keys, k, turn, at), self._write_and_read(self.values, v, turn, at)

    def order(self, turn: Turn) -> Tensor:
        """The place in its row's sequence of each key that `append` returns; negative: none.

        Shape: ``(keys,)``, or ``(batch, keys)`` where rows differ.
        """
        device = turn.starts.device
        new = turn.order()
        if turn.start == 0 and not turn.single:
            return new
        if not self.ring:
            return torch.arange(self.slots if turn.longest is None else turn.longest, device=device)
        if turn.single:
            return self._ring_order(turn, turn.starts + 1)
        old = self._ring_order(turn, turn.starts)
        return torch.cat((old, new.expand(old.shape[0], -1)), dim=-1)

    def _where(self, turn: Turn) -> Tensor | int:
        """The slots of the new tokens; a number if they lie side by side, alike in all rows."""
        if turn.start is not None:
            if self.ring and turn.single and turn.counts is None:
                return turn.start % self.slots
            if not self.ring and turn.start + turn.time <= self.slots:
                return turn.start  # padding that is written here too lies beyond its row's length
        slots = turn.starts[:, None] + torch.arange(turn.time, device=turn.starts.device)
        real = turn.real()
        if self.ring:
            counts = turn.time if turn.counts is None else turn.counts[:, None]
            last = slots >= turn.starts[:, None] + counts - self.slots  # of a long chunk, the end stays
            real = last if real is None else real & last
            slots = slots % self.slots
        return slots if real is None else slots.masked_fill(~real, self.slots)

    def _write_and_read(self, store: _Full | _Int8, x: Tensor, turn: Turn, at: Tensor | int) -> Tensor:
        new = store.encode(x)
        for part, one in zip(store.parts, new, strict=True):
            if isinstance(at, int):
                part.narrow(2, at, turn.time).copy_(one)
            else:
                kv_cache_update(part, one, at)
        if turn.start == 0 and not turn.single:
            return store.decode(new, x.dtype)  # all there is has just come
        size = self.slots if turn.longest is None else min(self.slots, turn.longest)
        return store.decode([part.narrow(2, 0, size) for part in store.parts], x.dtype)

    def _append_to_ring(self, k: Tensor, v: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
        """Several tokens: the first may see what the last will overwrite, so read, then write."""
        at, read = self._where(turn), []
        assert isinstance(at, Tensor)
        for store, x in ((self.keys, k), (self.values, v)):
            new = store.encode(x)
            seen = store.decode(new, x.dtype)
            if turn.start != 0:
                old = store.decode([part[:, :, :-1] for part in store.parts], x.dtype)
                seen = torch.cat((old, seen), dim=2)
            read.append(seen)
            for part, one in zip(store.parts, new, strict=True):
                kv_cache_update(part, one, at)
        return read[0], read[1]

    def _ring_order(self, turn: Turn, lengths: Tensor) -> Tensor:
        """Of each slot, the latest token below its row's length that the ring puts there."""
        size = self.slots
        if turn.single and turn.longest is not None:
            size = min(size, turn.longest)
        last = lengths[:, None] - 1
        return last - (last - torch.arange(size, device=lengths.device)) % self.slots

    def _grow(self, needed: int) -> None:
        old = self.slots
        slots = -(-max(needed, old + old // 2) // 64) * 64
        for store in (self.keys, self.values):
            store.parts = [
                torch.cat(
                    (part[:, :, :-1], part.new_zeros(*part.shape[:2], slots + 1 - old, part.shape[3])), 2
                )
                for part in store.parts
            ]

"""The cache of keys and values: a length per row, fixed or growing, in full or in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.compiler import is_compiling, is_exporting

from athena_nn._cache_layer import LayerCache
from athena_nn._masks import check_window


@dataclass(frozen=True)
class Turn:
    """Where the tokens of one pass go: row ``b`` continues at ``starts[b]`` with ``counts[b]`` of them.

    Attributes:
        time: tokens a row in this pass, padding included; a row's real tokens come first.
        starts: ``(batch,)``, how many tokens each row held before.
        counts: ``(batch,)``, how many it gains; None: all ``time``.
        start: what all rows held before, if that is one number and known without asking the device.
        longest: the longest row afterwards; None under a compiler, which must not know it.
        ends: how many tokens each row holds afterwards; None where the device would have to be asked.
    """

    time: int
    starts: Tensor
    counts: Tensor | None = None
    start: int | None = None
    longest: int | None = None
    ends: list[int] | None = None

    @property
    def single(self) -> bool:
        """Whether this is one token a row; never while exporting, whose graph must serve any number."""
        return not is_exporting() and self.time == 1

    def order(self) -> Tensor:
        """The place of each token in its row's sequence: ``(time,)`` if alike, or ``(batch, time)``."""
        if self.start is not None:
            return torch.arange(self.start, self.start + self.time, device=self.starts.device)
        return self.starts[:, None] + torch.arange(self.time, device=self.starts.device)

    def real(self) -> Tensor | None:
        """``(batch, time)``, True where a token is no padding; None if all are real."""
        if self.counts is None:
            return None
        return torch.arange(self.time, device=self.starts.device) < self.counts[:, None]


class KVCache:
    r"""Keys and values of the tokens that a model has seen, so that each is computed once.

    Every row has a length of its own, and goes on at its own position. A pass over new tokens appends
    them: `Decoder` and `MultiHeadAttention` take the cache as an argument and change it in place. It keeps
    no gradients, so passes with one belong under `torch.no_grad`.

    Four kinds: *static*, with a ``capacity`` (for `torch.compile`: no shape ever changes); *growing*,
    with none; *sliding window*, which keeps the last ``window`` tokens and has no end; each of them in
    ``dtype``, or in 8 bits: :math:`\operatorname{round}(x / s)` with one float32 scale
    :math:`s = \max|x| / 127` for each token and head, so that each element is off by at most
    :math:`s / 2`.

    Memory, in bytes (``KVCache.bytes`` computes it, `nbytes` reads it off):

    .. math:: 2 \cdot \text{layers} \cdot \text{batch} \cdot \text{kv_heads} \cdot (\text{slots} + 1)
              \cdot \begin{cases}\text{head_dim} \cdot \text{bytes of dtype} \\
              \text{head_dim} + 4 & \text{in 8 bits}\end{cases}

    Slots are the capacity or the window, whichever is smaller; a growing cache holds at most half as many
    again as its longest row, rounded up to a multiple of 64. The one slot more takes what padding writes.

    Args:
        num_layers: attention layers.
        batch: rows.
        num_kv_heads: key-value heads of each layer.
        head_dim: their width.
        capacity: most tokens a row; None grows as needed.
        window: of sliding-window layers; a sequence gives one for each layer; None sees everything.
        int8: whether to hold keys and values in 8 bits.
        dtype: of keys and values that are not in 8 bits.
        device: where to hold them; a list gives one for each layer, as of a model on several devices.

    Raises ValueError for sizes below 1, where a pass would exceed the capacity (under a compiler that is a
    RuntimeError), where a model's layers, heads or windows are others, and where gradients are wanted.
    Source: the 8 bits, Dettmers et al. 2022, arXiv:2208.07339, equation 1, by vectors. Departs from
    it: scales are a head's, not a whole row's.

    >>> cache = KVCache(num_layers=2, batch=1, num_kv_heads=2, head_dim=4, capacity=16)
    >>> cache.nbytes == KVCache.bytes(num_layers=2, batch=1, num_kv_heads=2, head_dim=4, slots=16)
    True
    """

    def __init__(
        self,
        *,
        num_layers: int,
        batch: int,
        num_kv_heads: int,
        head_dim: int,
        capacity: int | None = None,
        window: int | Sequence[int | None] | None = None,
        int8: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | list[torch.device] | None = None,
    ) -> None:
        sizes = {
            "num_layers": num_layers,
            "batch": batch,
            "num_kv_heads": num_kv_heads,
            "head_dim": head_dim,
            "capacity": 1 if capacity is None else capacity,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"`{name}` must be at least 1; got {size}.")
        if not dtype.is_floating_point:
            raise ValueError(f"`dtype` must be a floating-point dtype; got {dtype}. For 8 bits, `int8=True`.")
        windows = list(window) if isinstance(window, Sequence) else [window] * num_layers
        if len(windows) != num_layers:
            raise ValueError(f"`window` must name one for each of {num_layers} layers; got {len(windows)}.")
        for one in windows:
            check_window(one)
        devices = device if isinstance(device, list) else [device] * num_layers
        self.capacity = capacity
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=devices[0])
        self.layers = [
            LayerCache(
                (batch, num_kv_heads, head_dim), capacity, window=one, int8=int8, dtype=dtype, device=there
            )
            for one, there in zip(windows, devices, strict=True)
        ]
        self.memory: list[tuple[Tensor, Tensor]] = []
        self._unfinished = False
        self.memory_mask: Tensor | None = None
        # the lengths, where the device need not be asked; None: not known
        self._host: list[int] | None = None if is_compiling() else [0] * batch

    @staticmethod
    def bytes(
        *,
        num_layers: int,
        batch: int,
        num_kv_heads: int,
        head_dim: int,
        slots: int,
        dtype: torch.dtype = torch.float32,
        int8: bool = False,
    ) -> int:
        """Bytes of keys and values, by the formula above.

        >>> KVCache.bytes(num_layers=32, batch=1, num_kv_heads=8, head_dim=128, slots=1, dtype=torch.float16)
        262144
        """
        vector = head_dim + 4 if int8 else head_dim * dtype.itemsize
        return 2 * num_layers * batch * num_kv_heads * (slots + 1) * vector

    @property
    def batch(self) -> int:
        """Rows."""
        return self.lengths.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values that are allocated now; those of an encoder's memory come on top."""
        return sum(layer.nbytes for layer in self.layers)

    def open(self, batch: int, time: int, counts: Tensor | None = None) -> Turn:
        """Plan where ``time`` new tokens a row go, of which the first ``counts`` are real.

        Raises ValueError for another number of rows, or more tokens than fit.
        """
        if batch != self.batch:
            raise ValueError(f"`cache` holds {self.batch} rows; got tokens of {batch}. Make one for {batch}.")
        if any(layer.ring for layer in self.layers):  # others only write where nobody has looked yet
            if self._unfinished:
                raise ValueError("`cache`: a pass has failed half way and overwritten tokens; `reset()` it.")
            self._unfinished = True
        if is_compiling():
            if any(layer.grows for layer in self.layers):
                raise ValueError("`cache` must have a `capacity` to be used in a compiled graph; it grows.")
            self._host = None
            self._assert_room(time if counts is None else counts)
            return Turn(time, self.lengths, counts)
        if self._host is None:
            self._host = self.lengths.tolist()
        gained = [time] * batch if counts is None else counts.tolist()
        ends = [start + count for start, count in zip(self._host, gained, strict=True)]
        if self.capacity is not None and max(ends) > self.capacity:
            row = ends.index(max(ends))
            raise ValueError(
                f"`cache` has a capacity of {self.capacity} tokens a row; row {row} holds {self._host[row]} "
                f"and would gain {gained[row]}. Make it larger, or leave `capacity` out to let it grow."
            )
        start = self._host[0] if len(set(self._host)) == 1 else None
        return Turn(time, self.lengths, counts, start, max(ends), ends)

    def close(self, turn: Turn) -> None:
        """Count the tokens of a pass that has gone through all layers."""
        self.lengths.add_(turn.time if turn.counts is None else turn.counts)
        self._host = turn.ends
        self._unfinished = False

    def _assert_room(self, gained: int | Tensor) -> None:
        if self.capacity is not None:
            fits = (self.lengths + gained <= self.capacity).all()
            # the message names no number: to a compiler that has seen two capacities, theirs is a symbol
            torch.ops.aten._assert_async.msg(
                fits, "`cache` is full: more tokens came than its capacity takes."
            )

    def reorder(self, rows: Tensor) -> None:
        """Let row ``i`` go on from what row ``rows[i]`` holds, as beams do; there may be more rows or fewer.

        Shape: ``rows (new batch,)``, int64.
        """
        for layer in self.layers:
            layer.select(rows)
        self.lengths = self.lengths.index_select(0, rows.to(self.lengths.device))
        self.memory = [
            (k.index_select(0, rows.to(k.device)), v.index_select(0, rows.to(v.device)))
            for k, v in self.memory
        ]
        if self.memory_mask is not None:
            self.memory_mask = self.memory_mask.index_select(0, rows.to(self.memory_mask.device))
        self._host = None

    def reset(self) -> Self:
        """Forget all tokens, finite or not; nothing is freed.

        >>> cache = KVCache(num_layers=1, batch=2, num_kv_heads=1, head_dim=2, capacity=8)
        >>> cache.reset().lengths
        tensor([0, 0])
        """
        self.lengths.zero_()
        for layer in self.layers:
            layer.clear()
        self._host, self._unfinished = [0] * self.batch, False
        return self

    def tensors(self) -> list[Tensor]:
        """What it holds: each layer's keys and values, and their scales in 8 bits."""
        return [part for layer in self.layers for part in layer.tensors()]

    def adopt(self, lengths: Tensor, tensors: Sequence[Tensor]) -> None:
        """Go on from copies of ``lengths (batch,)`` and of what `tensors` gave of a cache made alike.

        >>> made = {"num_layers": 1, "batch": 1, "num_kv_heads": 1, "head_dim": 2, "capacity": 8}
        >>> cache, other = KVCache(**made), KVCache(**made)
        >>> cache.adopt(other.lengths, other.tensors())
        """
        rest = iter(tensors)
        for layer in self.layers:
            layer.adopt(rest)
        self.lengths, self._host, self._unfinished = lengths.clone(), None, False

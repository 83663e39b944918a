"""What all blocks of one pass share: where tokens stand, and who may see whom."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_exporting

from athena_nn._cache import KVCache, Turn
from athena_nn._masks import check_mask, combine, fitting, visible
from athena_nn._positions import NoPositions, Positions

NO_POSITIONS = NoPositions()


class Context:
    """One pass through a model: computed once, read by each of its attentions.

    What depends on positions and masks alone (angles, biases, masks) is computed when the first block
    asks, and kept for the others.

    Args:
        batch, time: shape of the tokens.
        device: where they are.
        part: how positions act where an attention has none of its own; None means not at all.
        positions: ``(time,)`` or ``(batch, time)``; by default 0, 1, 2, ..., or what the cache goes on with.
        mask: who may attend to whom, beside causality and windows.
        cache: keys and values of earlier tokens.
        counts: ``(batch,)``, how many tokens of each row are real; they come first.
        order: places in the sequence, by which causality and windows go, ``(batch, time)``; by default that
            of the tensor.
    """

    def __init__(
        self,
        batch: int,
        time: int,
        device: torch.device,
        *,
        part: Positions | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        counts: Tensor | None = None,
        order: Tensor | None = None,
    ) -> None:
        if cache is not None and positions is not None:
            raise ValueError(
                "`positions` and `cache` exclude each other: a cache goes on where each row ends."
            )
        if positions is not None:
            check_position_ids(positions, batch, time)
        if mask is not None and cache is not None and any(layer.ring for layer in cache.layers):
            raise ValueError("`mask` and a cache of a sliding window exclude each other: its keys move.")
        self.batch, self.time = batch, time
        self.part = NO_POSITIONS if part is None else part
        self.mask = mask
        self.cache = cache
        self.turn: Turn | None = None if cache is None else cache.open(batch, time, counts)
        if order is None:
            order = torch.arange(time, device=device) if self.turn is None else self.turn.order()
        self.order = order
        self.positions = self._own_positions(counts) if positions is None else positions
        self._phases: dict[Any, tuple[Tensor, Tensor] | None] = {}
        self._visibility: dict[Any, tuple[Tensor | None, bool]] = {}
        self._elsewhere: dict[torch.device, Context] = {}

    def _own_positions(self, counts: Tensor | None) -> Tensor:
        """Places along each row; padding, which may lie beyond the last position there is, takes its last."""
        if self.turn is None or counts is None:
            return self.order
        last = (self.turn.starts + counts - 1).clamp(min=0)
        return torch.minimum(self.order, last[:, None])

    def anew(self) -> Context:
        """The same pass with nothing computed yet: what is computed twice must compute the same twice."""
        other = copy(self)
        other._phases, other._visibility, other._elsewhere = {}, {}, {}
        return other

    def on(self, device: torch.device) -> Context:
        """The same pass where a block lies; another than the tokens' where a model is on several devices."""
        if device == self.order.device:
            return self
        if device not in self._elsewhere:
            other = self.anew()
            other.order, other.positions = self.order.to(device), self.positions.to(device)
            other.mask = None if self.mask is None else self.mask.to(device)
            if self.turn is not None:
                counts = self.turn.counts
                counts = None if counts is None else counts.to(device)
                other.turn = replace(self.turn, starts=self.turn.starts.to(device), counts=counts)
            self._elsewhere[device] = other
        return self._elsewhere[device]

    def phases(self, part: Positions, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """The angles of this pass's queries and keys, once for all blocks."""
        key = (part, dtype)
        if key not in self._phases:
            self._phases[key] = part.phases(self.positions, dtype)
        return self._phases[key]

    def key_positions(self, layer: int) -> Tensor:
        """Positions of the keys that a layer attends to."""
        if self.cache is None or self.turn is None:
            return self.positions
        return self.cache.layers[layer].order(self.turn)

    def visibility(
        self,
        part: Positions,
        layer: int,
        *,
        heads: int,
        causal: bool,
        window: int | None,
        dtype: torch.dtype,
        explicit: bool = False,
    ) -> tuple[Tensor | None, bool]:
        """All that decides which scores count: one mask, and whether plain causal attention says the same.

        The mask is boolean unless something is added to scores; None, False means that all count.
        ``explicit`` asks for a mask also where the causal flag would do.
        """
        ring = self.cache is not None and self.cache.layers[layer].ring
        key = (part, ring, heads, causal, window, dtype, explicit)
        if key not in self._visibility:
            self._visibility[key] = self._decide(part, layer, heads, causal, window, dtype, explicit)
        return self._visibility[key]

    def _decide(
        self,
        part: Positions,
        layer: int,
        heads: int,
        causal: bool,
        window: int | None,
        dtype: torch.dtype,
        explicit: bool,
    ) -> tuple[Tensor | None, bool]:
        bias = part.bias(self.positions, self.key_positions(layer))
        limited = not self._all_count(layer, causal, window)
        if limited and not explicit and bias is None and self._plainly_causal(causal, window):
            return None, True
        mask = None
        if limited:
            key_order = self.order if self.turn is None else self.key_positions(layer)
            mask = visible(self.order, key_order, causal=causal, window=window)
            mask = mask[:, None] if mask.ndim == 3 else mask[None, None]
        if self.mask is not None:
            keys = self.key_positions(layer).shape[-1]
            extra = check_mask(self.mask, batch=self.batch, heads=heads, queries=self.time, keys=keys)
            mask = extra if mask is None else combine(mask, extra)
        if bias is not None:
            bias = bias[None] if bias.ndim == 3 else bias
            mask = bias if mask is None else combine(mask, bias)
        return (None if mask is None else fitting(mask, dtype)), False

    def _all_count(self, layer: int, causal: bool, window: int | None) -> bool:
        """Whether order hides no key from any query."""
        if self.turn is None or self.cache is None:
            return not causal and self._reaches(window)
        if self.turn.start is None or self.turn.counts is not None or not self.turn.single:
            return False
        return window is None or window > self.turn.start or self.cache.layers[layer].ring

    def _plainly_causal(self, causal: bool, window: int | None) -> bool:
        """Whether queries are the keys, each seeing itself and those before it."""
        alone = self.turn is None or (self.turn.start == 0 and not self.turn.single)
        return causal and alone and self.mask is None and self._reaches(window)

    def _reaches(self, window: int | None) -> bool:
        """Whether a window hides nothing; never while exporting, whose graph must serve any number."""
        return window is None or (not is_exporting() and window >= self.time)

    def close(self) -> None:
        """After the last block: count the tokens that the cache has gained."""
        if self.cache is not None and self.turn is not None:
            self.cache.close(self.turn)


def check_position_ids(positions: Tensor, batch: int, time: int) -> None:
    """Raises ValueError unless they are integers, for all rows alike or for each."""
    if positions.dtype not in (torch.int64, torch.int32) or positions.shape not in ((time,), (batch, time)):
        raise ValueError(
            f"`positions` must be int64 or int32 of shape {(time,)} or {(batch, time)}; "
            f"got {positions.dtype} of shape {tuple(positions.shape)}."
        )

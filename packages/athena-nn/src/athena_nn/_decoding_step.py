"""One pass of decoding with the cache as explicit inputs and outputs, for `torch.export` and ONNX."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from athena_nn._cache import KVCache
from athena_nn._decoder import Decoder


class DecodingStep(nn.Module):
    """A decoder's pass over new tokens as a function without side effects: the cache comes in and goes out.

    `torch.export.export` and ``torch.onnx.export(..., dynamo=True)`` take it, with `example` and
    `dynamic_shapes`, for any number of rows and any number of tokens below the capacity; a sliding window
    keeps its size. A program that runs the exported graph feeds each pass's ``lengths`` and ``state`` into
    the next.

    Args:
        model: a decoder without cross-attention.
        capacity: most tokens a row; a pass beyond raises RuntimeError. In ONNX, which has no assertions,
            the program has to look at the lengths.
        int8: whether keys and values are held in 8 bits.

    Shape: ``tokens (batch, time)``, ``lengths (batch,)`` and the tensors of ``state``, as `empty` makes
    them -> logits ``(batch, time, vocabulary)``, and the new lengths and state.
    Raises ValueError for a decoder that attends to a memory, or a capacity below 4.

    >>> model = Decoder(50, 16, num_layers=1, num_heads=2, ff_dim=16)
    >>> step = DecodingStep(model, capacity=8)
    >>> with torch.no_grad():
    ...     logits, lengths, state = step(torch.tensor([[1, 2]]), *step.empty(1))
    >>> lengths
    tensor([2])
    """

    def __init__(self, model: Decoder, *, capacity: int, int8: bool = False) -> None:
        super().__init__()
        if model.layers()[0].cross_attention is not None:
            raise ValueError(
                "`model` must be a decoder without `memory_dim`: its memory is no part of a step."
            )
        if capacity < 4:
            raise ValueError(f"`capacity` must be at least 4; got {capacity}.")
        self.model = model
        self.capacity = capacity
        self.int8 = int8
        self.training = model.training

    def empty(self, batch: int) -> tuple[Tensor, list[Tensor]]:
        """Lengths and state of rows that hold no token."""
        cache = self._cache(batch)
        return cache.lengths, cache.tensors()

    def example(self, batch: int = 2) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Inputs to export with: two tokens a row.

        Others will do if each tensor is contiguous; from a slice, a graph would learn its strides.
        """
        lengths, state = self.empty(batch)
        return lengths.new_zeros(batch, 2), lengths, state

    def dynamic_shapes(self, batch: int = 1024) -> tuple:
        """What `torch.export.export` and ``torch.onnx.export`` are told: up to so many rows, any number of
        tokens below the capacity."""
        rows = torch.export.Dim("batch", max=batch)
        time = torch.export.Dim("time", max=self.capacity - 1)
        return {0: rows, 1: time}, {0: rows}, [{0: rows} for _ in self.empty(1)[1]]

    def forward(
        self, tokens: Tensor, lengths: Tensor, state: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        cache = self._cache(tokens.shape[0])
        cache.adopt(lengths, state)
        logits = self.model(tokens, cache=cache)
        return logits, cache.lengths, cache.tensors()

    def _cache(self, batch: int) -> KVCache:
        return self.model.new_cache(batch, capacity=self.capacity, int8=self.int8)

"""Encoder and decoder together: from one sequence to another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from athena_nn._cache import KVCache
from athena_nn._decoder import Decoder
from athena_nn._encoder import Encoder


class EncoderDecoder(nn.Module):
    r"""Predict a target sequence, token by token, from a source: :math:`p(y_t \mid y_{<t}, x)`.

    Args:
        encoder: represents the source.
        decoder: built with ``memory_dim``, the encoder's width.
        start_token: the first token of every target, from which `generate` starts.

    Shape: ``source (batch, keys)`` and ``target (batch, time)`` -> ``(batch, time, vocabulary)``, logits of
    the token after each of the target's; paddings are True where a token is real.
    Raises ValueError if the decoder looks at no memory of the encoder's width, or the start token lies
    outside its vocabulary.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.1. Departs from it: no.

    >>> encoder = Encoder(50, 16, num_layers=1, num_heads=2, ff_dim=32)
    >>> decoder = Decoder(50, 16, num_layers=1, num_heads=2, ff_dim=32, memory_dim=16)
    >>> model = EncoderDecoder(encoder, decoder, start_token=0)
    >>> model(torch.randint(50, (3, 7)), torch.randint(50, (3, 4))).shape
    torch.Size([3, 4, 50])
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, *, start_token: int) -> None:
        super().__init__()
        cross = decoder.layers()[0].cross_attention
        width = None if cross is None else cross.kv.in_features
        if width != encoder.embed_dim:
            raise ValueError(
                f"`decoder` must be built with `memory_dim` = {encoder.embed_dim}, the encoder's width; "
                f"got {width}."
            )
        if not 0 <= start_token < decoder.vocabulary:
            raise ValueError(f"`start_token` must lie in [0, {decoder.vocabulary}); got {start_token}.")
        self.encoder = encoder
        self.decoder = decoder
        self.start_token = start_token

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        *,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        memory = self.encode(source, source_padding)
        return self.decoder(target, padding=target_padding, memory=memory, memory_padding=source_padding)

    def encode(self, source: Tensor, padding: Tensor | None = None) -> Tensor:
        """The memory of a source, ``(batch, keys, embed_dim)``."""
        return self.encoder(source, padding=padding)

    def new_cache(
        self,
        batch: int,
        *,
        memory: Tensor,
        memory_padding: Tensor | None = None,
        capacity: int | None = None,
        int8: bool = False,
        dtype: torch.dtype | None = None,
    ) -> KVCache:
        """An empty cache of the decoder that holds what its cross-attention sees of a memory."""
        return self.decoder.new_cache(
            batch,
            memory=memory,
            memory_padding=memory_padding,
            capacity=capacity,
            int8=int8,
            dtype=dtype,
        )

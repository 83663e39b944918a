"""The encoder: every token sees every other."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from athena_nn._block import BlockOptions
from athena_nn._context import Context
from athena_nn._masks import check_mask, combine, padding_mask
from athena_nn._positions import Positions
from athena_nn._stack import Stack


class Encoder(Stack):
    r"""Represent each token in the light of all: embedding, blocks and a last norm.

    Args:
        vocabulary: number of token ids.
        embed_dim: width of the stream.
        num_layers: blocks.
        num_heads: query heads of each.
        ff_dim: width inside each feed-forward layer.
        max_length: longest sequence accepted; None means what the positions take.
        positions: one built part, shared by all blocks; None means no positions.
        embedding_norm: whether embeddings are normalised before the first block, as in BERT.
        embedding_scale: factor of token embeddings.
        drop_path: stochastic depth of the last block; the others have less, in proportion to their depth.
        checkpoint: whether training computes each block twice to save memory.
        **block: options of `TransformerBlock`: ``activation``, ``norm``, ``norm_first``, ``dropout``, ...

    Shape: ``tokens (batch, time) -> (batch, time, embed_dim)``. ``padding (batch, time)`` is True where a
    token is real, on whichever side of a row; what stands where it is False is seen by none, and its own
    output means nothing. ``mask`` is that of `MultiHeadAttention`. ``positions`` is ``(time,)`` or ``(batch,
    time)``; by default they count a row's real tokens.
    Raises ValueError for sizes that do not fit, too long a sequence, and on the CPU for a token id outside
    the vocabulary.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.1. Departs from it: norms come first by default.

    >>> import torch
    >>> encoder = Encoder(100, 16, num_layers=2, num_heads=2, ff_dim=32, activation="gelu", norm="layer")
    >>> encoder(torch.randint(100, (2, 9))).shape
    torch.Size([2, 9, 16])
    """

    def __init__(
        self,
        vocabulary: int,
        embed_dim: int,
        *,
        num_layers: int,
        num_heads: int,
        ff_dim: int,
        max_length: int | None = None,
        positions: Positions | None = None,
        embedding_norm: bool = False,
        embedding_scale: float = 1.0,
        drop_path: float = 0.0,
        checkpoint: bool = False,
        **block: Unpack[BlockOptions],
    ) -> None:
        super().__init__(
            vocabulary,
            embed_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            ff_dim=ff_dim,
            causal=False,
            max_length=max_length,
            positions=positions,
            embedding_norm=embedding_norm,
            embedding_scale=embedding_scale,
            drop_path=drop_path,
            checkpoint=checkpoint,
            **block,
        )
        if block.get("memory_dim") is not None:
            raise ValueError("`memory_dim` belongs to a decoder: an encoder attends to its own tokens alone.")
        self.reset_parameters()

    def forward(
        self,
        tokens: Tensor,
        *,
        padding: Tensor | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        self._check(tokens, padding)
        batch, time = tokens.shape
        self._check_length(time)
        order = None
        if padding is not None:
            tokens = tokens.masked_fill(~padding, 0)  # padding may hold any id
            order = (padding.cumsum(dim=1) - 1).clamp(min=0)
            positions = order if positions is None else positions
            if mask is not None:
                heads = self.layers()[0].attention.num_heads
                mask = check_mask(mask, batch=batch, heads=heads, queries=time, keys=time)
            real = padding_mask(padding)
            mask = real if mask is None else combine(mask, real)
        context = Context(
            batch, time, tokens.device, part=self.positions, positions=positions, mask=mask, order=order
        )
        return self._run(tokens, context)

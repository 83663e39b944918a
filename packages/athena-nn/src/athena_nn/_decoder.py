"""The decoder: a language model, alone or looking at a memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Unpack

import torch
from torch import Tensor, nn

from athena_core import SplitEmbedding, SplitLinear
from athena_nn._attention import check_cache
from athena_nn._block import BlockOptions
from athena_nn._cache import KVCache
from athena_nn._context import Context, check_position_ids
from athena_nn._cross_entropy import linear_cross_entropy
from athena_nn._masks import padding_mask
from athena_nn._positions import Positions
from athena_nn._split_cross_entropy import split_cross_entropy
from athena_nn._stack import Memory, Stack, check_padding


class Decoder(Stack):
    r"""Predict each next token from those up to it: embedding, causal blocks, norm, projection.

    Args:
        vocabulary: number of token ids.
        embed_dim: width of the stream.
        num_layers: blocks.
        num_heads: query heads of each.
        ff_dim: width inside each feed-forward layer.
        max_length: longest sequence accepted; None means what the positions take.
        positions: one built part, shared by all blocks; None means no positions.
        tie_embeddings: whether the output projection is the embedding's matrix.
        embedding_norm: whether embeddings are normalised before the first block.
        embedding_scale: factor of token embeddings.
        drop_path: stochastic depth of the last block; the others have less, in proportion to their depth.
        checkpoint: whether training computes each block twice to save memory.
        **block: options of `TransformerBlock`: ``activation``, ``norm``, ``num_kv_heads``, ``dropout``, ...
            With a ``memory_dim``, each block also attends to a memory of that width.

    Shape: ``tokens (batch, time) -> (batch, time, vocabulary)``, logits.

    - ``padding (batch, time)``: True where a token is real, on whichever side of a row. A row means what its
      real tokens mean alone; logits elsewhere mean nothing.
    - ``mask``: that of `MultiHeadAttention`, beside causality; not together with ``padding``. Beside a cache
      its keys are the tokens that the cache holds after this pass; under a compiler, all its slots.
    - ``positions``: ``(time,)`` or ``(batch, time)``, by default 0, 1, 2, ... along a row's real tokens.
    - ``memory (batch, keys, memory_dim)`` and ``memory_padding (batch, keys)``: what cross-attention sees.
    - ``cache``: the rows' earlier tokens, as `new_cache` makes it. Each row goes on at its own length.

    Raises ValueError for sizes that do not fit, a sequence longer than ``max_length``, more tokens than a
    cache takes, and on the CPU for a token id outside the vocabulary. On an accelerator such an id is the
    device's own assertion: looking would make the host wait at every call. So it is in a compiled graph.

    Weights start as in GPT-2 (Radford et al. 2019, section 2.3): normal with standard deviation 0.02,
    projections onto the stream divided by :math:`\sqrt{2N}` for :math:`N` blocks; biases 0, gains 1.
    Source: Radford et al. 2019; default norm, gate and order as in Touvron et al. 2023, arXiv:2302.13971.
    Departs from it: no.

    >>> model = Decoder(256, 32, num_layers=2, num_heads=4, ff_dim=64)
    >>> model(torch.randint(256, (2, 9))).shape
    torch.Size([2, 9, 256])
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
        tie_embeddings: bool = True,
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
            causal=True,
            max_length=max_length,
            positions=positions,
            embedding_norm=embedding_norm,
            embedding_scale=embedding_scale,
            drop_path=drop_path,
            checkpoint=checkpoint,
            **block,
        )
        self.head = nn.Linear(embed_dim, vocabulary, bias=False)
        if tie_embeddings:
            self.head.weight = self.embedding.weight
        self.reset_parameters()

    def forward(
        self,
        tokens: Tensor,
        *,
        padding: Tensor | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        memory: Tensor | None = None,
        memory_padding: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        return self.head(
            self.hidden(
                tokens,
                padding=padding,
                mask=mask,
                positions=positions,
                memory=memory,
                memory_padding=memory_padding,
                cache=cache,
            )
        )

    def hidden(
        self,
        tokens: Tensor,
        *,
        padding: Tensor | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        memory: Tensor | None = None,
        memory_padding: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """What `forward` projects onto the vocabulary, ``(batch, time, embed_dim)``.

        >>> model = Decoder(256, 32, num_layers=1, num_heads=4, ff_dim=64)
        >>> model.hidden(torch.randint(256, (2, 9))).shape
        torch.Size([2, 9, 32])
        """
        self._check(tokens, padding)
        if cache is not None:
            check_cache(cache, [block.attention for block in self.layers()])
        seen, seen_mask = self._memory(memory, memory_padding, cache)
        counts = first = None
        if padding is not None:
            if mask is not None:
                raise ValueError("`padding` and `mask` exclude each other; put the padding into the mask.")
            # real tokens first, in their order: no later one is padding, so causality hides all of it
            first = (~padding).long().argsort(dim=1, stable=True)
            counts = padding.sum(dim=1)
            tokens = tokens.masked_fill(~padding, 0).gather(1, first)
            if positions is not None:
                check_position_ids(positions, *tokens.shape)
                positions = positions.expand_as(first).gather(1, first)
        context = Context(
            tokens.shape[0],
            tokens.shape[1],
            tokens.device,
            part=self.positions,
            positions=positions,
            mask=mask,
            cache=cache,
            counts=counts,
        )
        longest = tokens.shape[1] if context.turn is None else context.turn.longest
        if longest is not None:
            self._check_length(longest)
        x = self._run(tokens, context, seen, seen_mask)
        if first is not None:
            x = x.gather(1, first.argsort(dim=1).to(x.device)[..., None].expand_as(x))
        return x

    def loss(
        self, tokens: Tensor, targets: Tensor, *, ignore_index: int = -100, **inputs: Tensor | None
    ) -> Tensor:
        """Mean cross-entropy of ``targets``, in nats, without ever holding all logits.

        Shape: ``tokens`` and ``targets`` ``(batch, time)`` -> scalar; targets of ``ignore_index``, and at
        padding, do not count. ``inputs`` are those of ``forward``. See `linear_cross_entropy`.

        >>> model = Decoder(256, 32, num_layers=1, num_heads=4, ff_dim=64)
        >>> tokens = torch.randint(256, (2, 9))
        >>> model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        """
        if not isinstance(self.head, nn.Linear | SplitLinear):
            raise ValueError(
                "`loss` needs a model as it was built; one prepared for decoding has no gradients."
            )
        x = self.hidden(tokens, **inputs)  # type: ignore[arg-type]
        padding = inputs.get("padding")
        if padding is not None:
            targets = targets.masked_fill(~padding, ignore_index)
        if isinstance(self.head, SplitLinear):
            return split_cross_entropy(x, self.head.pieces, targets.to(x.device), ignore_index=ignore_index)
        weight = self.head.weight  # of a model on several devices, maybe elsewhere than the last block
        x, targets = x.to(weight.device), targets.to(weight.device)
        return linear_cross_entropy(x, weight, targets, ignore_index=ignore_index)

    def new_cache(
        self,
        batch: int,
        *,
        capacity: int | None = None,
        int8: bool = False,
        dtype: torch.dtype | None = None,
        memory: Tensor | None = None,
        memory_padding: Tensor | None = None,
    ) -> KVCache:
        """An empty cache for ``batch`` rows: of a ``capacity``, or growing; see `KVCache`.

        Layers with a window keep no more than it. ``dtype`` is by default that of the embeddings. With a
        ``memory``, its keys and values are computed here, once, and later passes need it no more.
        """
        if capacity is not None and self.max_length is not None and capacity > self.max_length:
            raise ValueError(
                f"`capacity` must be at most the model's `max_length` = {self.max_length}; got {capacity}."
            )
        attentions = [block.attention for block in self.layers()]
        words = self.embedding
        weight = words.pieces[0] if isinstance(words, SplitEmbedding) else words.weight
        devices = [next(chain(one.parameters(), one.buffers()), weight).device for one in attentions]
        cache = KVCache(
            num_layers=len(attentions),
            batch=batch,
            num_kv_heads=attentions[0].num_kv_heads,
            head_dim=attentions[0].head_dim,
            capacity=capacity,
            window=[attention.window for attention in attentions],
            int8=int8,
            dtype=weight.dtype if dtype is None else dtype,
            device=devices,
        )
        cache.lengths = cache.lengths.to(weight.device)  # beside the tokens
        if memory is not None or memory_padding is not None:
            _, cache.memory_mask = self._memory(memory, memory_padding, None)
        if memory is not None:
            crosses = (block.cross_attention for block in self.layers())
            cache.memory = [
                cross.memory_heads(memory.to(there))
                for cross, there in zip(crosses, devices, strict=True)
                if cross is not None
            ]
        return cache

    def _memory(
        self, memory: Tensor | None, padding: Tensor | None, cache: KVCache | None
    ) -> tuple[Sequence[Memory] | None, Tensor | None]:
        """What each block's cross-attention sees, and which of it counts."""
        if cache is not None and cache.memory:
            if memory is not None or padding is not None:
                raise ValueError("`memory` and its padding are in the `cache` already; leave them out.")
            return cache.memory, cache.memory_mask
        if (memory is None) != (self.layers()[0].cross_attention is None):
            raise ValueError(
                "`memory` needs a decoder built with `memory_dim`, its width."
                if memory is not None
                else "`memory` is missing: this decoder was built with `memory_dim`, to look at one."
            )
        if memory is None:
            if padding is not None:
                raise ValueError("`memory_padding` is given without a `memory`.")
            return None, None
        if memory.ndim != 3:
            raise ValueError(f"`memory` must have shape (batch, keys, width); got {tuple(memory.shape)}.")
        check_padding(padding, memory, name="memory_padding")
        return [memory] * len(self.blocks), None if padding is None else padding_mask(padding)

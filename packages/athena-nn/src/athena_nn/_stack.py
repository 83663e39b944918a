"""What encoder and decoder have in common: embedding, blocks and a last norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from athena_nn._attention import MultiHeadAttention, check_heads, check_positions
from athena_nn._block import BlockOptions, TransformerBlock
from athena_nn._context import Context
from athena_nn._decoding_linear import DecodingLinear
from athena_nn._embedding import Embedding
from athena_nn._feed_forward import FeedForward
from athena_nn._named import build_norm
from athena_nn._positions import NoPositions, Positions

Memory = Tensor | tuple[Tensor, Tensor]


class Stack(nn.Module):
    """Base of `Encoder` and `Decoder`: from tokens to the stream after the last block.

    Args:
        vocabulary: number of token ids.
        embed_dim: width of the stream.
        num_layers: blocks.
        num_heads: query heads of each.
        ff_dim: width inside each feed-forward layer.
        causal: whether a token sees only itself and those before it.
        max_length: longest sequence accepted; None means what the positions take.
        positions: one built part, shared by all blocks; None means no positions.
        embedding_norm: whether embeddings are normalised before the first block.
        embedding_scale: factor of token embeddings; Vaswani et al. take the root of the width.
        drop_path: stochastic depth of the last block; the others have less, in proportion to their depth.
        checkpoint: whether training keeps only each block's input, and computes the block again for its
            gradients: less memory, a third more time.
        **block: options of `TransformerBlock`.
    """

    def __init__(
        self,
        vocabulary: int,
        embed_dim: int,
        *,
        num_layers: int,
        num_heads: int,
        ff_dim: int,
        causal: bool,
        max_length: int | None = None,
        positions: Positions | None = None,
        embedding_norm: bool = False,
        embedding_scale: float = 1.0,
        drop_path: float = 0.0,
        checkpoint: bool = False,
        **block: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        sizes = {
            "vocabulary": vocabulary,
            "num_layers": num_layers,
            "max_length": 1 if max_length is None else max_length,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"`{name}` must be at least 1; got {size}.")
        self.vocabulary, self.embed_dim = vocabulary, embed_dim
        self.checkpoint = checkpoint
        check_positions(positions)
        self.embedding_scale = embedding_scale
        self.positions = NoPositions() if positions is None else positions
        lengths = [length for length in (max_length, self.positions.max_length) if length is not None]
        self.max_length = min(lengths, default=None)
        norm = block.get("norm", "rms")
        self.embedding = Embedding(vocabulary, embed_dim)
        self.embedding_norm = build_norm(norm, embed_dim) if embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(block.get("dropout", 0.0))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                embed_dim,
                num_heads,
                ff_dim=ff_dim,
                causal=causal,
                drop_path=drop_path * (depth + 1) / num_layers,
                **block,
            )
            for depth in range(num_layers)
        )
        first = self.layers()[0].attention
        check_heads(self.positions, head_dim=first.head_dim, num_heads=first.num_heads)
        self.norm = build_norm(norm, embed_dim) if block.get("norm_first", True) else nn.Identity()

    def layers(self) -> list[TransformerBlock]:
        """The blocks, in order."""
        return list(self.blocks)  # type: ignore[arg-type]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew from the global generator, as after `to_empty` on a real device."""
        std = 0.02
        for module in self.modules():
            if isinstance(module, DecodingLinear):
                module.reset_parameters()  # which refuses, before anything is drawn
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif module not in (self, self.embedding) and hasattr(module, "reset_parameters"):
                module.reset_parameters()  # type: ignore[operator]  # of norms and positions
        nn.init.normal_(self.embedding.weight, std=std)
        onto_stream = std / (2 * len(self.blocks)) ** 0.5
        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                nn.init.normal_(module.out.weight, std=onto_stream)
            elif isinstance(module, FeedForward):
                nn.init.normal_(module.down.weight, std=onto_stream)

    def _run(
        self,
        tokens: Tensor,
        context: Context,
        memory: Sequence[Memory | None] | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        """The stream after the last norm; ``memory`` is what each layer's cross-attention sees."""
        x = self._embed(tokens)
        if self.embedding_scale != 1:
            x = x * self.embedding_scale
        x = self.dropout(self.embedding_norm(self.positions.embed(x, context.on(x.device).positions)))
        save = self.checkpoint and self.training and torch.is_grad_enabled() and context.cache is None
        for layer, block in enumerate(self.blocks):
            seen = None if memory is None else memory[layer]
            if save:
                x = recompute(_run_alone, block, x, seen, memory_mask, context, layer, use_reentrant=False)
            else:
                x = block(x, seen, memory_mask=memory_mask, context=context, layer=layer)
        context.close()
        return self.norm(x)

    def _check(self, tokens: Tensor, padding: Tensor | None) -> None:
        if tokens.ndim != 2:
            raise ValueError(f"`tokens` must have shape (batch, time); got {tuple(tokens.shape)}.")
        if tokens.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"`tokens` must be int64 or int32 ids; got {tokens.dtype}.")
        check_padding(padding, tokens)

    def _check_length(self, longest: int) -> None:
        if self.max_length is not None and longest > self.max_length:
            raise ValueError(
                f"`tokens` must hold at most `max_length` = {self.max_length} a row; got {longest}. "
                "Cut them, or build the model with a larger `max_length`."
            )

    def _embed(self, tokens: Tensor) -> Tensor:
        try:
            return self.embedding(tokens)
        except IndexError as error:  # the CPU's kernel looks at every id anyway
            low, high = (bound.item() for bound in tokens.aminmax())
            wrong = low if low < 0 else high
            raise ValueError(f"`tokens` must lie in [0, {self.vocabulary}); got {wrong}.") from error


def _run_alone(
    block: nn.Module,
    x: Tensor,
    memory: Memory | None,
    memory_mask: Tensor | None,
    context: Context,
    layer: int,
) -> Tensor:
    """A block that computes all it needs, as it will when it is computed again."""
    return block(x, memory, memory_mask=memory_mask, context=context.anew(), layer=layer)


def check_padding(padding: Tensor | None, tokens: Tensor, name: str = "padding") -> None:
    """Raises ValueError unless ``padding`` is boolean and of the shape of ``tokens``'s first two axes."""
    if padding is not None and (padding.dtype != torch.bool or padding.shape != tokens.shape[:2]):
        raise ValueError(
            f"`{name}` must be boolean, True = a real token, of shape {tuple(tokens.shape[:2])}; "
            f"got {padding.dtype} of shape {tuple(padding.shape)}."
        )

"""The transformer block: attention, cross-attention where there is a memory, and a feed-forward layer."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor, nn

from athena_nn._add_norm import add_norm
from athena_nn._attention import MultiHeadAttention, check_alone, check_cache
from athena_nn._cache import KVCache
from athena_nn._context import Context
from athena_nn._drop_path import DropPath
from athena_nn._feed_forward import FeedForward
from athena_nn._named import ActivationSpec, NormSpec, build_norm
from athena_nn._positions import Positions


class BlockOptions(TypedDict, total=False):
    """Options of `TransformerBlock` that models hand on to each of theirs; meanings and defaults are its."""

    num_kv_heads: int | None
    head_dim: int | None
    activation: ActivationSpec
    norm: NormSpec
    norm_first: bool
    dropout: float
    attention_dropout: float | None
    ff_dropout: float | None
    bias: bool
    qkv_bias: bool | None
    window: int | None
    scale: float | None
    qk_norm: NormSpec | None
    memory_dim: int | None


class TransformerBlock(nn.Module):
    r"""Parts that each add to the stream: attention, then a feed-forward layer.

    .. math:: \text{norm first:}\quad x \leftarrow x + f(\operatorname{norm}(x)), \qquad
              \text{norm last:}\quad x \leftarrow \operatorname{norm}(x + f(x))

    where :math:`f` is each part in turn; between the two, over a memory, stands cross-attention.

    Args:
        embed_dim: width of the stream.
        num_heads: query heads.
        ff_dim: width inside the feed-forward layer.
        num_kv_heads, head_dim, scale, qk_norm: as in `MultiHeadAttention`, of all attention here.
        activation: of the feed-forward layer: a name of kind ``activation``, or a module.
        norm: ``"rms"``, ``"layer"``, another name of kind ``norm``, or a callable from a width to a module.
        norm_first: whether norms stand before each part or after the sum.
        dropout: probability of dropping an element of what a part adds, while training.
        attention_dropout: of dropping an attention weight; None means as ``dropout``.
        ff_dropout: of dropping an element inside the feed-forward layer; None means as ``dropout``.
        drop_path: probability of leaving out a whole part for a row (stochastic depth).
        bias: whether projections have biases.
        qkv_bias: whether those of queries, keys and values have; None means as ``bias``.
        causal, window, positions: of the self-attention.
        memory_dim: width of a memory to attend to; None means none.

    Shape: ``x (batch, time, embed_dim) -> (batch, time, embed_dim)``; ``memory (batch, keys, memory_dim)``.
    ``mask``, ``positions``, ``cache``, ``context`` and ``layer`` of ``forward`` are those of the
    self-attention, ``memory`` and ``memory_mask`` of the cross-attention. Raises ValueError for sizes that
    do not fit, as its parts do.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.1 (norm last); Xiong et al. 2020,
    arXiv:2002.04745, figure 1(b) (norm first). Departs from them: no.

    >>> import torch
    >>> block = TransformerBlock(8, 2, ff_dim=16, activation="gelu", norm="layer", norm_first=False)
    >>> block(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        ff_dim: int,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        activation: ActivationSpec = "swiglu",
        norm: NormSpec = "rms",
        norm_first: bool = True,
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        ff_dropout: float | None = None,
        drop_path: float = 0.0,
        bias: bool = False,
        qkv_bias: bool | None = None,
        causal: bool = False,
        window: int | None = None,
        scale: float | None = None,
        qk_norm: NormSpec | None = None,
        positions: Positions | None = None,
        memory_dim: int | None = None,
    ) -> None:
        super().__init__()

        def attention(**options: object) -> MultiHeadAttention:
            return MultiHeadAttention(
                embed_dim,
                num_heads,
                num_kv_heads=num_kv_heads,
                head_dim=head_dim,
                dropout=dropout if attention_dropout is None else attention_dropout,
                bias=bias if qkv_bias is None else qkv_bias,
                out_bias=bias,
                scale=scale,
                qk_norm=qk_norm,
                **options,  # type: ignore[arg-type]
            )

        self.norm_first = norm_first
        self.attention_norm = build_norm(norm, embed_dim)
        self.attention = attention(causal=causal, window=window, positions=positions)
        self.cross_norm = None if memory_dim is None else build_norm(norm, embed_dim)
        self.cross_attention = None if memory_dim is None else attention(kv_dim=memory_dim)
        self.feed_forward_norm = build_norm(norm, embed_dim)
        self.feed_forward = FeedForward(
            embed_dim,
            ff_dim,
            activation=activation,
            bias=bias,
            dropout=dropout if ff_dropout is None else ff_dropout,
        )
        self.residual_dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | tuple[Tensor, Tensor] | None = None,
        *,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        context: Context | None = None,
        layer: int = 0,
    ) -> Tensor:
        if (memory is None) != (self.cross_attention is None):
            raise ValueError(
                "`memory` needs a block built with `memory_dim`, its width."
                if self.cross_attention is None
                else "`memory` is missing: this block was built with `memory_dim`, to look at one."
            )
        if memory is None and memory_mask is not None:
            raise ValueError("`memory_mask` is given without a `memory`.")
        check_alone(context, layer, mask, positions, cache)
        if context is not None:
            return self._run(x, memory, memory_mask, context, layer)
        if cache is not None:
            check_cache(cache, [self.attention])
        context = Context(x.shape[0], x.shape[1], x.device, positions=positions, mask=mask, cache=cache)
        x = self._run(x, memory, memory_mask, context, layer)
        context.close()
        return x

    def _run(
        self,
        x: Tensor,
        memory: Tensor | tuple[Tensor, Tensor] | None,
        memory_mask: Tensor | None,
        context: Context,
        layer: int,
    ) -> Tensor:
        if self.norm_first:
            added = self._kept(self.attention(self.attention_norm(x), context=context, layer=layer))
            if self.cross_attention is not None and self.cross_norm is not None:
                x, normed = add_norm(self.cross_norm, added, x)
                added = self._kept(self.cross_attention(normed, memory, mask=memory_mask))
            x, normed = add_norm(self.feed_forward_norm, added, x)
            return x + self._kept(self.feed_forward(normed))
        added = self._kept(self.attention(x, context=context, layer=layer))
        _, x = add_norm(self.attention_norm, added, x)
        if self.cross_attention is not None and self.cross_norm is not None:
            added = self._kept(self.cross_attention(x, memory, mask=memory_mask))
            _, x = add_norm(self.cross_norm, added, x)
        _, x = add_norm(self.feed_forward_norm, self._kept(self.feed_forward(x)), x)
        return x

    def _kept(self, added: Tensor) -> Tensor:
        """What is left of a part's contribution while training; all of it otherwise."""
        return self.drop_path(self.residual_dropout(added)) if self.training else added

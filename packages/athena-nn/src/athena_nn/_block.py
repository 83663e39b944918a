"""The transformer block, with norms before its parts."""

from __future__ import annotations

from torch import Tensor, nn

from athena_nn._attention import MultiHeadAttention
from athena_nn._feed_forward import SwiGLU
from athena_nn._positions import Positions
from athena_nn._rms_norm import RMSNorm


class TransformerBlock(nn.Module):
    r"""Attention, then a feed-forward layer, each on the normed stream and added to it.

    .. math:: h = x + \operatorname{attention}(\operatorname{norm}_1(x)), \qquad
              y = h + \operatorname{feed\_forward}(\operatorname{norm}_2(h))

    Args:
        embed_dim: width of the stream.
        num_heads: query heads.
        ff_dim: width inside the feed-forward layer, a `SwiGLU`.
        num_kv_heads: key-value heads; None means as many as query heads.
        dropout: probability of dropping an attention weight, and an element of what either part
            adds, while training.
        bias: whether the projections have biases.
        causal: whether a token sees only itself and those before it.
        positions: a built part for the attention; None means no positions.

    Shape: ``(batch, time, embed_dim) -> (batch, time, embed_dim)``.
    Raises ValueError as `MultiHeadAttention` and `SwiGLU` do.
    Source: Xiong et al. 2020, arXiv:2002.04745, figure 1(b); norm and gate as in Touvron et al. 2023,
    arXiv:2302.13971. Departs from it: no.

    >>> import torch
    >>> TransformerBlock(8, 2, ff_dim=16)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        ff_dim: int,
        num_kv_heads: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
        causal: bool = False,
        positions: Positions | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(embed_dim)
        self.attention = MultiHeadAttention(
            embed_dim,
            num_heads,
            num_kv_heads=num_kv_heads,
            dropout=dropout,
            bias=bias,
            causal=causal,
            positions=positions,
        )
        self.feed_forward_norm = RMSNorm(embed_dim)
        self.feed_forward = SwiGLU(embed_dim, ff_dim, bias=bias)
        self.residual_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        x = x + self.residual_dropout(self.attention(self.attention_norm(x), positions))
        return x + self.residual_dropout(self.feed_forward(self.feed_forward_norm(x)))

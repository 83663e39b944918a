"""Multi-head self-attention on `torch.nn.functional.scaled_dot_product_attention`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_nn._positions import NoPositions, Positions


class MultiHeadAttention(nn.Module):
    r"""Self-attention of several heads, with grouped keys and values, and positions as a built part.

    .. math:: \operatorname{softmax}\!\big(q_h k_{g(h)}^\top / \sqrt{d} + b_h\big)\, v_{g(h)},
              \qquad g(h) = \lfloor h\, H_{kv} / H \rfloor

    Queries, keys and values come from one projection, whose rows are all query heads, then all key
    heads, then all value heads. Neighbouring query heads share a key-value head, as in Llama.

    Args:
        embed_dim: width of the tokens.
        num_heads: query heads :math:`H`, of width :math:`d` = ``embed_dim / num_heads``.
        num_kv_heads: key-value heads :math:`H_{kv}`; None means as many as query heads, 1 is
            multi-query attention.
        dropout: probability of dropping an attention weight while training; never in ``eval()``.
        bias: whether the projections have biases.
        causal: whether a token sees only itself and those before it.
        positions: rotates queries and keys and may add the bias :math:`b`; None means neither.

    Shape: ``(batch, time, embed_dim) -> (batch, time, embed_dim)``; ``positions`` of ``forward`` is
    ``(time,)`` or ``(batch, time)``, by default 0, 1, 2, ... Causality goes by order in the tensor.
    Raises ValueError if heads do not divide the width, key-value heads do not divide heads, the
    positions were made for another head width, or ``dropout`` lies outside [0, 1).
    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1; Ainslie et al. 2023, arXiv:2305.13245.
    Departs from it: no.

    >>> attention = MultiHeadAttention(embed_dim=8, num_heads=4, num_kv_heads=2, causal=True)
    >>> attention(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
        causal: bool = False,
        positions: Positions | None = None,
    ) -> None:
        super().__init__()
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        positions = NoPositions() if positions is None else positions
        if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
            raise ValueError(
                f"`num_heads` must divide `embed_dim` = {embed_dim}; got {num_heads}. Change one of them."
            )
        if kv_heads < 1 or num_heads % kv_heads:
            raise ValueError(f"`num_kv_heads` must divide `num_heads` = {num_heads}; got {kv_heads}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1); got {dropout}.")
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, kv_heads, embed_dim // num_heads
        if positions.head_dim not in (None, self.head_dim):
            raise ValueError(
                f"`positions` must fit heads of width {self.head_dim} = {embed_dim} / {num_heads}; "
                f"got one for {positions.head_dim}."
            )
        self.dropout = dropout
        self.causal = causal
        self.positions = positions
        self.qkv = nn.Linear(embed_dim, (num_heads + 2 * kv_heads) * self.head_dim, bias=bias)
        self.out = nn.Linear(embed_dim, embed_dim, bias=bias)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)
        heads = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        q, k, v = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2).split(heads, dim=1)
        q, k = self.positions.rotate(q, k, positions)
        bias = self._bias(q, positions)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=bias,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and bias is None,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )
        return self.out(y.transpose(1, 2).flatten(-2))

    def _bias(self, q: Tensor, positions: Tensor) -> Tensor | None:
        """The positions' bias with the causal mask in it; None leaves the mask to the fast path."""
        bias = self.positions.bias(positions, positions)
        if bias is None:
            return None
        if self.causal:
            time = q.shape[-2]
            future = torch.ones(time, time, dtype=torch.bool, device=q.device).triu(1)
            bias = bias.masked_fill(future, float("-inf"))
        return bias.to(q.dtype)

    def extra_repr(self) -> str:
        return f"heads={self.num_heads}, kv_heads={self.num_kv_heads}, causal={self.causal}"

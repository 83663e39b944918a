"""Scaled dot-product attention: the fast call, and the plain one that it is compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_exporting


def attention_weights(q: Tensor, k: Tensor, *, mask: Tensor | None, scale: float) -> Tensor:
    r"""Plain :math:`\operatorname{softmax}(s\, q k^\top + m)`; a row that may attend to nothing is zero.

    Shape: ``q (batch, heads, queries, head_dim)``, ``k (batch, kv_heads, keys, head_dim)``, ``mask``
    broadcasts to the result, ``(batch, heads, queries, keys)``. A query head shares the key-value head
    :math:`\lfloor h H_{kv} / H \rfloor`, so that neighbours share one.

    >>> attention_weights(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 2, 4), mask=None, scale=1.0)
    tensor([[[[0.5000, 0.5000]]]])
    """
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = (q * scale) @ k.mT
    if mask is None:
        return scores.softmax(dim=-1)
    scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    unseen = (scores == float("-inf")).all(dim=-1, keepdim=True)
    # what is added may be of a wider dtype than queries and keys
    return scores.masked_fill(unseen, 0).softmax(dim=-1).masked_fill(unseen, 0).to(q.dtype)


def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    r"""Attention in plain matrix products: what every faster path is compared with.

    .. math:: \operatorname{softmax}\!\big(s\, q k^\top + m\big)\, v

    Shape: ``q (batch, heads, queries, head_dim)``, ``k`` and ``v`` ``(batch, kv_heads, keys, head_dim)``;
    ``mask`` is boolean, True = attend, or added, and broadcasts to ``(batch, heads, queries, keys)``.
    ``scale`` is :math:`s`, by default ``head_dim ** -0.5``. A query that may attend to nothing gets zeros;
    one whose mask adds the lowest finite number everywhere, instead of minus infinity, gets the mean.
    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1. Departs from it: no.

    >>> q = k = v = torch.ones(1, 1, 2, 4)
    >>> nothing = torch.zeros(2, 2, dtype=torch.bool)
    >>> attention_reference(q, k, v, mask=nothing).abs().max()
    tensor(0.)
    """
    weights = attention_weights(q, k, mask=mask, scale=q.shape[-1] ** -0.5 if scale is None else scale)
    return weights @ v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
    dropout: float,
) -> Tensor:
    """What `attention_reference` computes, by torch's fused kernels. ``causal``: queries are the keys."""
    heads, kv_heads, queries = q.shape[1], k.shape[1], q.shape[2]
    if not is_exporting() and queries == 1 and heads != kv_heads:
        # the query heads that share a key-value head become its queries: no key is read twice, where
        # `enable_gqa` takes 1.7 times as long (two cores, 160 keys), and repeating keys 4 times
        shared = heads // kv_heads
        if mask is not None and mask.shape[1] == heads:
            mask = mask.reshape(mask.shape[0], kv_heads, shared, mask.shape[-1])
        folded = q.reshape(q.shape[0], kv_heads, shared, q.shape[-1])
        y = F.scaled_dot_product_attention(folded, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
        return y.reshape(q.shape[0], heads, 1, v.shape[-1])
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal,
        scale=scale,
        enable_gqa=heads != kv_heads,
    )

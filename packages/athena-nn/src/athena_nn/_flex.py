"""Attention whose scores are changed as they are computed, so that no bias of all pairs is ever held."""

from __future__ import annotations

from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from athena_nn._context import Context
from athena_nn._positions import Positions

SHORTEST = 128  # queries; FlexAttention works on blocks of 128
DEVICES = ("cuda", "xpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # its kernels accumulate in float32: not float64


def flex_helps(part: Positions, q: Tensor, context: Context, dropout: float) -> bool:
    """Whether FlexAttention can and should do it: on its devices and dtypes, for long passes without a cache.

    It knows no dropout, and a mask of one's own would have to be held as a bias is.
    """
    width = q.shape[-1]
    return (
        q.device.type in DEVICES
        and q.dtype in DTYPES
        and q.shape[2] >= SHORTEST
        and width >= 16
        and width & (width - 1) == 0
        and dropout == 0
        and context.cache is None
        and context.mask is None
        and type(part).score_mod is not Positions.score_mod
        and type(part).scores is Positions.scores
    )


def flex_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    part: Positions,
    positions: Tensor,
    causal: bool,
    window: int | None,
    scale: float,
) -> Tensor:
    """What `attend` computes with the bias of ``part``, by `torch.nn.attention.flex_attention`.

    Shape: ``q (batch, heads, time, head_dim)``, ``k`` and ``v`` ``(batch, kv_heads, time, head_dim)``,
    ``positions (time,)`` or ``(batch, time)``.
    """
    time = q.shape[2]
    where = positions.expand(q.shape[0], time)
    call = _compiled() if q.device.type in DEVICES else flex_attention
    y = call(
        q,
        k,
        v,
        score_mod=part.score_mod(where, where),
        block_mask=_blocks(time, causal, window, q.device),
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(y, Tensor)
    return y


@lru_cache(maxsize=32)
def _blocks(time: int, causal: bool, window: int | None, device: torch.device) -> BlockMask | None:
    """Which blocks of keys each block of queries needs; made once a shape."""
    if not causal and window is None:
        return None

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:  # noqa: ARG001
        near = (i - j).abs() < (time if window is None else window)
        return near & (i >= j) if causal else near

    return create_block_mask(seen, None, None, time, time, device=device)


@cache
def _compiled():
    """FlexAttention as it is meant to run: fused, by the compiler, once for all layers."""
    return torch.compile(flex_attention, dynamic=False)

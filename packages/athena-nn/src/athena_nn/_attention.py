"""Multi-head attention: over a sequence itself, or over a memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from athena_nn._attend import attend, attention_weights
from athena_nn._cache import KVCache
from athena_nn._context import Context
from athena_nn._flex import flex_attend, flex_helps
from athena_nn._masks import check_mask, check_window, combine, fitting
from athena_nn._named import NormSpec, build_norm
from athena_nn._positions import Positions


class MultiHeadAttention(nn.Module):
    r"""Attention of several heads, with grouped keys and values, and positions as a built part.

    .. math:: \operatorname{softmax}\!\big(s\, q_h k_{g(h)}^\top + b_h + m\big)\, v_{g(h)},
              \qquad g(h) = \lfloor h\, H_{kv} / H \rfloor

    Self-attention takes queries, keys and values from one projection, ``qkv``, whose rows are all query
    heads, then all key heads, then all value heads. With a ``kv_dim`` it is cross-attention, over a memory
    of that width, with projections ``q`` and ``kv``. Neighbouring query heads share a key-value head, as
    in Llama. Masks follow `scaled_dot_product_attention`: boolean, True = attend, or added to scores;
    `from_torch_masks` converts those of `torch.nn.MultiheadAttention`, where True means ignore.

    Args:
        embed_dim: width of the tokens.
        num_heads: query heads :math:`H`.
        num_kv_heads: key-value heads :math:`H_{kv}`; None means as many as query heads, 1 is
            multi-query attention.
        head_dim: width :math:`d` of a head; None means ``embed_dim / num_heads``.
        kv_dim: width of the memory; None means self-attention.
        dropout: probability of dropping an attention weight while training; never in ``eval()``.
        bias: whether the projections of queries, keys and values have biases.
        out_bias: whether the output projection has one; None means as ``bias``.
        causal: whether a token sees only itself and those before it, in the order of the sequence.
        window: how far a token sees, itself included; None means all the way.
        scale: :math:`s`; None means :math:`d^{-1/2}`.
        qk_norm: normalises each head of queries and keys before positions act: ``"rms"``, ``"layer"`` or
            any callable from a width to a module; None means not.
        positions: rotates queries and keys and may add the bias :math:`b`; None means neither, or what the
            model uses that this is part of.

    Shape: ``x (batch, time, embed_dim)``, ``memory (batch, keys, kv_dim)`` -> ``(batch, time, embed_dim)``.
    In ``forward``: ``mask`` is ``(queries, keys)``, ``(batch, queries, keys)`` or ``(batch, heads, queries,
    keys)`` with axes of 1 where all are alike; ``positions`` is ``(time,)`` or ``(batch, time)``, by default
    0, 1, 2, ...; ``cache``, of one layer, holds earlier tokens, to which the new ones are appended: then keys
    are its tokens. A model's blocks share one ``context``, in which ``layer`` is the place of each; leave
    both out elsewhere. A query that may attend to nothing gets zeros from the weighted sum.
    Raises ValueError if heads do not divide the width, key-value heads do not divide heads, the
    positions were made for other heads, ``dropout`` lies outside [0, 1), and for a mask of a wrong dtype or
    shape, or a memory where there must be none or the other way round.
    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1; Ainslie et al. 2023, arXiv:2305.13245; query
    and key norms, Henry et al. 2020, arXiv:2010.04245. Departs from them: the scale stays with the norms,
    with a gain for each dimension, as in later models.

    >>> import torch
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
        head_dim: int | None = None,
        kv_dim: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
        out_bias: bool | None = None,
        causal: bool = False,
        window: int | None = None,
        scale: float | None = None,
        qk_norm: NormSpec | None = None,
        positions: Positions | None = None,
    ) -> None:
        super().__init__()
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        head_dim = _head_dim(embed_dim, num_heads, head_dim)
        check_positions(positions)
        if kv_heads < 1 or num_heads % kv_heads:
            raise ValueError(f"`num_kv_heads` must divide `num_heads` = {num_heads}; got {kv_heads}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1); got {dropout}.")
        check_window(window)
        if positions is not None:
            check_heads(positions, head_dim=head_dim, num_heads=num_heads)
            if type(positions).embed is not Positions.embed:
                raise ValueError(
                    f"`positions` must act within attention; {type(positions).__name__} acts on embeddings. "
                    "Give it to the model, or call its `embed`."
                )
        if kv_dim is not None and (causal or window is not None or positions is not None):
            raise ValueError(
                "`causal`, `window` and `positions` belong to self-attention; leave them out with `kv_dim`."
            )
        self.embed_dim, self.head_dim = embed_dim, head_dim
        self.num_heads, self.num_kv_heads = num_heads, kv_heads
        self.dropout, self.causal, self.window, self.scale = dropout, causal, window, scale
        self.positions = positions
        self.is_cross = kv_dim is not None
        if kv_dim is None:
            self.qkv = nn.Linear(embed_dim, (num_heads + 2 * kv_heads) * head_dim, bias=bias)
        else:
            self.q = nn.Linear(embed_dim, num_heads * head_dim, bias=bias)
            self.kv = nn.Linear(kv_dim, 2 * kv_heads * head_dim, bias=bias)
        self.out = nn.Linear(num_heads * head_dim, embed_dim, bias=bias if out_bias is None else out_bias)
        self.q_norm = None if qk_norm is None else build_norm(qk_norm, head_dim)
        self.k_norm = None if qk_norm is None else build_norm(qk_norm, head_dim)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | tuple[Tensor, Tensor] | None = None,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        context: Context | None = None,
        layer: int = 0,
    ) -> Tensor:
        if x.ndim != 3 or x.shape[-1] != self.embed_dim:
            raise ValueError(f"`x` must have shape (batch, time, {self.embed_dim}); got {tuple(x.shape)}.")
        if self.is_cross != (memory is not None):
            raise ValueError(
                "`memory` is missing: this attention was built with `kv_dim`, to look at one."
                if self.is_cross
                else "`memory` needs an attention that was built with `kv_dim`, its width."
            )
        if memory is not None:
            if positions is not None or cache is not None:
                raise ValueError("`positions` and `cache` belong to self-attention; leave them out.")
            return self._attend_to(x, memory, mask)
        check_alone(context, layer, mask, positions, cache)
        if context is not None:
            return self._attend_to_self(x, context, layer)
        if cache is not None:
            check_cache(cache, [self])
        context = Context(x.shape[0], x.shape[1], x.device, positions=positions, mask=mask, cache=cache)
        y = self._attend_to_self(x, context, layer)
        context.close()
        return y

    def memory_heads(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a memory, once for all passes over it: ``(batch, kv_heads, keys, head_dim)``.

        `forward` takes them in place of the memory. Raises ValueError for a memory of another width.
        """
        if memory.ndim != 3 or memory.shape[-1] != self.kv.in_features:
            raise ValueError(
                f"`memory` must have shape (batch, keys, {self.kv.in_features}); got {tuple(memory.shape)}."
            )
        kv = self.kv(memory).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        k, v = kv.split_with_sizes((self.num_kv_heads, self.num_kv_heads), dim=1)
        return (k if self.k_norm is None else self.k_norm(k)), v

    def _attend_to_self(self, x: Tensor, context: Context, layer: int) -> Tensor:
        context = context.on(x.device)
        q, k, v = self._heads(x, context)
        part, extra = self._part(context), None
        if flex_helps(part, q, context, self._dropout):
            return self._merge(
                flex_attend(
                    q,
                    k,
                    v,
                    part=part,
                    positions=context.positions,
                    causal=self.causal,
                    window=self.window,
                    scale=self._scale,
                )
            )
        if type(part).scores is not Positions.scores:
            extra = part.scores(q * self._scale, context.positions, context.key_positions(layer))
        mask, causal = context.visibility(
            part,
            layer,
            heads=self.num_heads,
            causal=self.causal,
            window=self.window,
            dtype=q.dtype,
            explicit=extra is not None,
        )
        if extra is not None:
            mask = extra if mask is None else combine(mask, extra)
        if context.cache is not None and context.turn is not None:  # only now: nothing is refused any more
            k, v = context.cache.layers[layer].append(k, v, context.turn)
        if part.weighs_values:
            y = self._weigh(q, k, v, mask, context, layer)
        else:
            y = attend(q, k, v, mask=mask, causal=causal, scale=self._scale, dropout=self._dropout)
        return self._merge(y)

    def _attend_to(self, x: Tensor, memory: Tensor | tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        k, v = self.memory_heads(memory) if isinstance(memory, Tensor) else memory
        if k.shape[0] != x.shape[0]:
            raise ValueError(f"`memory` must have {x.shape[0]} rows, as `x`; got {k.shape[0]}.")
        q = self.q(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        q = q if self.q_norm is None else self.q_norm(q)
        if mask is not None:
            sizes = {"batch": x.shape[0], "heads": self.num_heads, "queries": x.shape[1], "keys": k.shape[2]}
            mask = fitting(check_mask(mask, **sizes), q.dtype)
        return self._merge(attend(q, k, v, mask=mask, causal=False, scale=self._scale, dropout=self._dropout))

    def _part(self, context: Context) -> Positions:
        return context.part if self.positions is None else self.positions

    @property
    def _scale(self) -> float:
        return self.head_dim**-0.5 if self.scale is None else self.scale

    @property
    def _dropout(self) -> float:
        return self.dropout if self.training else 0.0  # the fused kernels know no `eval()`

    def _heads(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        part = self._part(context)
        phases = context.phases(part, heads.dtype)
        n, n_kv = self.num_heads, self.num_kv_heads
        if self.q_norm is None or self.k_norm is None:
            # `Tensor.split` is Python, and takes three times as long as this
            qk, v = heads.split_with_sizes((n + n_kv, n_kv), dim=1)
            if phases is not None:
                qk = part.rotate(qk, phases)  # queries and keys in one call
            q, k = qk.split_with_sizes((n, n_kv), dim=1)
            return q, k, v
        q, k, v = heads.split_with_sizes((n, n_kv, n_kv), dim=1)
        q, k = self.q_norm(q), self.k_norm(k)
        if phases is not None:
            q, k = part.rotate(q, phases), part.rotate(k, phases)
        return q, k, v

    def _weigh(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, context: Context, layer: int
    ) -> Tensor:
        """Attention whose weights positions need as well, so that no fused kernel can do it."""
        weights = F.dropout(attention_weights(q, k, mask=mask, scale=self._scale), self._dropout)
        y = weights @ v.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1)
        return y + self._part(context).values(weights, context.positions, context.key_positions(layer))

    def _merge(self, y: Tensor) -> Tensor:
        return self.out(y.transpose(1, 2).flatten(-2))

    def extra_repr(self) -> str:
        heads = f"heads={self.num_heads}, kv_heads={self.num_kv_heads}"
        return f"{heads}, causal={self.causal}, window={self.window}"


def _head_dim(embed_dim: int, num_heads: int, head_dim: int | None) -> int:
    if num_heads < 1 or embed_dim < 1 or (head_dim is None and embed_dim % num_heads):
        raise ValueError(
            f"`num_heads` must divide `embed_dim` = {embed_dim}; got {num_heads}. "
            "Change one of them, or give `head_dim`."
        )
    head_dim = embed_dim // num_heads if head_dim is None else head_dim
    if head_dim < 1:
        raise ValueError(f"`head_dim` must be at least 1; got {head_dim}.")
    return head_dim


def check_alone(context: Context | None, layer: int, *inputs: object) -> None:
    """Raises ValueError for what belongs to a shared pass without one, or the other way round."""
    if context is None and layer != 0:
        raise ValueError(f"`layer` needs the `context` of a model's pass; got {layer} without one.")
    if context is not None and any(one is not None for one in inputs):
        raise ValueError("`mask`, `positions` and `cache` are in the `context` already; leave them out.")


def check_cache(cache: KVCache, attentions: Sequence[MultiHeadAttention]) -> None:
    """Raises ValueError if a cache has other layers or windows, or an attention is not causal."""
    if len(cache.layers) != len(attentions):
        raise ValueError(f"`cache` must have {len(attentions)} layers; got one of {len(cache.layers)}.")
    for layer, attention in zip(cache.layers, attentions, strict=True):
        if not attention.causal:
            raise ValueError("`cache` needs causal attention: its later tokens are not there yet.")
        if layer.ring and attention.window != layer.slots:
            raise ValueError(
                f"`cache` keeps the last {layer.slots} tokens, while attention looks at "
                f"{'all' if attention.window is None else attention.window}. Make it by `new_cache`."
            )


def check_positions(positions: object) -> None:
    """Raises TypeError for what is no built part, such as a name or a class."""
    if positions is not None and not isinstance(positions, Positions):
        raise TypeError(
            f"`positions` must be a built part, as RotaryPositions(head_dim=64) is; got {positions!r}. "
            'By name: `athena_core.create("positions", name, ...)`.'
        )


def check_heads(positions: Positions, *, head_dim: int, num_heads: int) -> None:
    """Raises ValueError if the positions were made for other heads."""
    if positions.head_dim not in (None, head_dim):
        raise ValueError(f"`positions` must fit heads of width {head_dim}; got one for {positions.head_dim}.")
    if positions.num_heads not in (None, num_heads):
        raise ValueError(f"`positions` must fit {num_heads} heads; got one for {positions.num_heads}.")

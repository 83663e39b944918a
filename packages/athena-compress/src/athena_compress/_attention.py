"""torch.nn.MultiheadAttention taken apart, so that its projections can be quantized and its heads removed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from athena_compress._copied import copied
from athena_compress._data_flow import is_hooked
from athena_compress._select import Patterns, select


class SplitMultiheadAttention(nn.Module):
    r"""What `torch.nn.MultiheadAttention` computes, with a linear layer for each projection.

    .. math:: \operatorname{softmax}\!\big(q_h k_h^\top / \sqrt d + m\big)\, v_h

    torch's keeps the weights of three projections in one parameter and multiplies by them in a function,
    where nothing that treats layers finds them. Here they are ``query``, ``key``, ``value`` and ``out``. It
    takes and returns the same, in training and in evaluation, and always on the plain path: what torch's
    encoder layers do in one fused call, or in nested tensors, needs the weights in one.

    Args:
        embed_dim: width of the queries and of the output.
        num_heads: heads; fewer once some are removed.
        head_dim: width :math:`d` of a head; None means ``embed_dim / num_heads``.
        dropout: probability of dropping an attention weight while training.
        bias: whether the projections have biases.
        kdim, vdim: widths of keys and values; None means ``embed_dim``.
        batch_first: whether the batch is the first axis of three, or the second.

    Shape of ``forward``: ``query (batch, queries, embed_dim)``, ``key (batch, keys, kdim)``, ``value
    (batch, keys, vdim)``, or with time first, or all without a batch; ``key_padding_mask (batch, keys)``;
    ``attn_mask (queries, keys)`` or ``(batch * num_heads, queries, keys)``; masks are boolean, True =
    ignore, or are added to scores. Returns the output, as ``query``, and the weights ``(batch, queries,
    keys)``, ``(batch, num_heads, queries, keys)`` without ``average_attn_weights``, or None without
    ``need_weights``. ``is_causal`` says that ``attn_mask`` is the causal one, which then need not be read.
    Raises ValueError for heads that do not divide the width, masks of other shapes or dtypes, ``is_causal``
    without a mask, and nested tensors.
    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1 and section 3.2.2. Departs from it: no.

    >>> attention = SplitMultiheadAttention(8, num_heads=2, batch_first=True)
    >>> x = torch.randn(3, 5, 8)
    >>> output, weights = attention(x, x, x)
    >>> output.shape, weights.shape
    (torch.Size([3, 5, 8]), torch.Size([3, 5, 5]))
    """

    # Torch's encoder layers look for these, and take their plain path where they find them so.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or (head_dim is None and embed_dim % num_heads):
            raise ValueError(
                f"`num_heads` must divide `embed_dim` = {embed_dim}; got {num_heads}. "
                "Change one of them, or give `head_dim`."
            )
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.dropout, self.batch_first = dropout, batch_first
        width = num_heads * self.head_dim
        self.query = nn.Linear(embed_dim, width, bias=bias)
        self.key = nn.Linear(embed_dim if kdim is None else kdim, width, bias=bias)
        self.value = nn.Linear(embed_dim if vdim is None else vdim, width, bias=bias)
        self.out = nn.Linear(width, embed_dim, bias=bias)

    @classmethod
    def from_torch(cls, attention: nn.MultiheadAttention) -> SplitMultiheadAttention:
        """The same attention, its weights copied.

        Raises ValueError for one with ``add_bias_kv`` or ``add_zero_attn``: no projection makes that key.

        >>> torch_attention = nn.MultiheadAttention(8, 2, kdim=4)
        >>> SplitMultiheadAttention.from_torch(torch_attention).key.in_features
        4
        """
        if attention.bias_k is not None or attention.add_zero_attn:
            raise ValueError(
                "`attention` must have neither add_bias_kv nor add_zero_attn; got one that adds a key of its "
                "own. Name it in `skip` to leave it as it is."
            )
        with torch.device("meta"):
            split = cls(
                attention.embed_dim,
                attention.num_heads,
                dropout=attention.dropout,
                bias=attention.in_proj_bias is not None,
                kdim=attention.kdim,
                vdim=attention.vdim,
                batch_first=attention.batch_first,
            )
        if attention._qkv_same_embed_dim:
            weights = attention.in_proj_weight.chunk(3)
        else:
            weights = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
        for layer, weight, bias in zip((split.query, split.key, split.value), weights, biases, strict=True):
            layer.weight = _parameter(weight)
            layer.register_parameter("bias", None if bias is None else _parameter(bias))
        split.out.weight = _parameter(attention.out_proj.weight)
        bias = attention.out_proj.bias
        split.out.register_parameter("bias", None if bias is None else _parameter(bias))
        return split.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.is_nested or key.is_nested or value.is_nested:
            raise ValueError(
                "`query`, `key` and `value` must be padded; got a nested tensor. Pass `key_padding_mask`."
            )
        if is_causal and attn_mask is None:
            raise ValueError(
                "`attn_mask` is missing: `is_causal` says that it is causal. Pass the mask as well."
            )
        batched = query.ndim == 3
        q = self._heads(self.query(query), batched)
        k = self._heads(self.key(key), batched)
        v = self._heads(self.value(value), batched)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if is_causal and key_padding_mask is None and not need_weights:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        else:
            mask = self._mask(attn_mask, key_padding_mask, q, k)
            if need_weights:
                scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
                weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
                y = weights @ v
            else:
                y = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        y = y.transpose(1, 2).flatten(-2)
        y = (y if self.batch_first else y.transpose(0, 1)) if batched else y.squeeze(0)
        if weights is not None:
            weights = weights.mean(dim=1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        return self.out(y), weights

    def _heads(self, x: Tensor, batched: bool) -> Tensor:
        """As ``(batch, num_heads, time, head_dim)``."""
        if not batched:
            x = x.unsqueeze(0)
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(self, mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
        """The sum of both masks, of four axes."""
        batch, heads, queries, keys = *q.shape[:3], k.shape[2]
        added = None
        if mask is not None:
            if mask.shape not in ((queries, keys), (batch * heads, queries, keys)):
                raise ValueError(
                    f"`attn_mask` must have shape ({queries}, {keys}) or "
                    f"({batch * heads}, {queries}, {keys}); got {tuple(mask.shape)}."
                )
            added = _additive("attn_mask", mask, q.dtype)
            added = added if mask.ndim == 2 else added.reshape(batch, heads, queries, keys)
        if padding is not None:
            padding = padding.unsqueeze(0) if padding.ndim == 1 else padding
            if padding.shape != (batch, keys):
                raise ValueError(
                    f"`key_padding_mask` must have shape ({batch}, {keys}); got {tuple(padding.shape)}."
                )
            padding = _additive("key_padding_mask", padding, q.dtype)[:, None, None, :]
            added = padding if added is None else added + padding
        return added

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}, batch_first={self.batch_first}"


def split_attention(model: nn.Module, *, include: Patterns = ("*",), skip: Patterns = ()) -> nn.Module:
    """A copy of a model in which each `torch.nn.MultiheadAttention` is a `SplitMultiheadAttention`.

    Outputs and attention weights are equal, in training and in evaluation. `torch.nn.TransformerEncoder`
    leaves its nested tensors: at padded places, where these give zeros, the copy has numbers of no meaning,
    as the encoder has in training. Classes that override its ``forward`` are left as they are.

    Args:
        model: any module; one that stands in several places does so in the copy.
        include, skip: shell patterns of names of attentions, see `select`.

    Raises ValueError for ``add_bias_kv`` and ``add_zero_attn``, for hooks and parametrizations of an
    attention, and for a pattern that matches nothing.

    >>> encoder = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> [name for name, module in split_attention(encoder).named_modules() if isinstance(module, nn.Linear)]
    ['self_attn.query', 'self_attn.key', 'self_attn.value', 'self_attn.out', 'linear1', 'linear2']
    """
    model = copied(model)
    chosen = select(model, (nn.MultiheadAttention,), include=include, skip=skip)
    split = {
        id(attention): _split(name, attention)
        for name, attention in chosen.items()
        if isinstance(attention, nn.MultiheadAttention)
        and type(attention).forward is nn.MultiheadAttention.forward
    }
    if id(model) in split:
        return split[id(model)]
    for name, module in [*model.named_modules(remove_duplicate=False)]:
        if id(module) in split:
            model.set_submodule(name, split[id(module)])
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(
            isinstance(part, SplitMultiheadAttention) for part in module.modules()
        ):
            module.use_nested_tensor = False
    return model


def _split(name: str, attention: nn.MultiheadAttention) -> SplitMultiheadAttention:
    if is_hooked(attention) or is_parametrized(attention):
        raise ValueError(
            f"`model`: `{name}` must have no hooks and no parametrizations, which its parts cannot keep. "
            "Remove them, or name it in `skip`."
        )
    try:
        return SplitMultiheadAttention.from_torch(attention)
    except ValueError as error:
        raise ValueError(f"{name or 'The model'}: {error}") from None


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=tensor.requires_grad)


def _additive(name: str, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores, of a boolean mask or of one that is added already."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
    if not mask.is_floating_point():
        raise ValueError(f"`{name}` must be boolean or floating-point; got {mask.dtype}. Use `mask.bool()`.")
    return mask.to(dtype)

"""Masks of attention, in one convention: boolean, True where a query may attend; or added to scores."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(
    queries: int, keys: int | None = None, *, window: int | None = None, device: torch.device | None = None
) -> Tensor:
    r"""The last ``queries`` of ``keys`` tokens, each seeing itself and those before it.

    Aligned at the bottom right: query :math:`i` is token :math:`n_k - n_q + i`, as when earlier tokens
    are in a cache. With a ``window``, a token sees the last ``window`` of these, itself included.

    Shape: ``(queries, keys)``, boolean; ``keys`` defaults to ``queries``. Raises ValueError if there are
    more queries than keys, or ``window`` is below 1.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3; windows, Beltagy et al. 2020,
    arXiv:2004.05150. Departs from them: no.

    >>> causal_mask(2, 4)
    tensor([[ True,  True,  True, False],
            [ True,  True,  True,  True]])
    >>> causal_mask(1, 4, window=2)
    tensor([[False, False,  True,  True]])
    """
    keys = queries if keys is None else keys
    if queries > keys:
        raise ValueError(f"`queries` must be at most `keys` = {keys}, being the last of them; got {queries}.")
    check_window(window)
    order = torch.arange(keys, device=device)
    return visible(order[keys - queries :], order, causal=True, window=window)


def padding_mask(padding: Tensor) -> Tensor:
    """Hide keys that are padding. Shape: ``(batch, keys)``, True = a real token -> ``(batch, 1, 1, keys)``.

    >>> padding_mask(torch.tensor([[True, False]])).shape
    torch.Size([1, 1, 1, 2])
    """
    return padding[:, None, None, :]


def packed_mask(segments: Tensor) -> Tensor:
    """Keep packed sequences apart: a token sees only those of its own run of one id (block-diagonal).

    Combine it with causal attention; `packed_positions` restarts the positions in each segment.

    Shape: ``(batch, time)``, segment ids -> ``(batch, 1, time, time)``, boolean.

    >>> packed_mask(torch.tensor([[0, 0, 1]]))[0, 0].int()
    tensor([[1, 1, 0],
            [1, 1, 0],
            [0, 0, 1]], dtype=torch.int32)
    """
    runs = _starts(segments).cumsum(dim=1)
    return (runs[:, :, None] == runs[:, None, :])[:, None]


def packed_positions(segments: Tensor) -> Tensor:
    """Positions that restart where the segment id changes. Shape: ``(batch, time) -> (batch, time)``.

    >>> packed_positions(torch.tensor([[5, 5, 5, 8, 8]]))
    tensor([[0, 1, 2, 0, 1]])
    """
    order = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    return order - order.masked_fill(~_starts(segments), 0).cummax(dim=1).values


def _starts(segments: Tensor) -> Tensor:
    """Where a run of one id begins."""
    changes = segments[:, 1:] != segments[:, :-1]
    return torch.cat((torch.ones_like(segments[:, :1], dtype=torch.bool), changes), dim=1)


def from_torch_masks(
    attn_mask: Tensor | None = None, key_padding_mask: Tensor | None = None, *, num_heads: int = 1
) -> Tensor | None:
    """The mask that means here what these mean to `torch.nn.MultiheadAttention`.

    There, True in a boolean mask says what to *ignore*; here, and in
    `torch.nn.functional.scaled_dot_product_attention`, where to *attend*. Additive masks mean the same.

    Args:
        attn_mask: ``(queries, keys)`` or ``(batch * num_heads, queries, keys)``.
        key_padding_mask: ``(batch, keys)``.
        num_heads: by which the first axis of a 3-D ``attn_mask`` is divided.

    Shape of the result: ``(batch or 1, num_heads or 1, queries or 1, keys)``, or None if both are None.
    Raises ValueError if that first axis is not a multiple of ``num_heads``.

    >>> ignored = torch.tensor([[False, True], [False, False]])  # torch's causal mask
    >>> from_torch_masks(ignored)[0, 0]
    tensor([[ True, False],
            [ True,  True]])
    """
    mask = None
    if attn_mask is not None:
        if attn_mask.ndim not in (2, 3) or (attn_mask.ndim == 3 and attn_mask.shape[0] % num_heads):
            raise ValueError(
                f"`attn_mask` must have shape (queries, keys) or (batch * num_heads, queries, keys), with "
                f"{num_heads} heads; got {tuple(attn_mask.shape)}."
            )
        mask = attn_mask[None, None] if attn_mask.ndim == 2 else attn_mask.unflatten(0, (-1, num_heads))
        mask = ~mask if mask.dtype == torch.bool else mask
    if key_padding_mask is None:
        return mask
    padding = padding_mask(~key_padding_mask if key_padding_mask.dtype == torch.bool else key_padding_mask)
    return padding if mask is None else combine(mask, padding)


def combine(mask: Tensor, other: Tensor) -> Tensor:
    """Both at once: boolean masks by "and", additive ones by their sum, minus infinity where one is False.

    Shapes broadcast.

    >>> combine(torch.tensor([True, False]), torch.tensor([0.5, 0.5]))
    tensor([0.5000,   -inf])
    """
    if mask.dtype == torch.bool:
        return mask & other if other.dtype == torch.bool else other.masked_fill(~mask, float("-inf"))
    return mask.masked_fill(~other, float("-inf")) if other.dtype == torch.bool else mask + other


def fitting(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask in a dtype that torch's kernels read rightly beside queries of ``dtype``; boolean ones stay.

    >>> fitting(torch.zeros(2, dtype=torch.float64), torch.float32).dtype
    torch.float32
    """
    if mask.dtype == torch.bool:
        return mask
    if mask.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16):
        return mask.float()  # the CPU's kernels keep what is added in full precision
    return mask.to(dtype)


def visible(query_order: Tensor, key_order: Tensor, *, causal: bool, window: int | None) -> Tensor:
    """Which keys each query may see, by their places in the sequence; negative places hold no key.

    Shape: ``([batch,] queries)`` and ``([batch,] keys)`` -> ``([batch,] queries, keys)``, boolean.
    """
    distance = query_order[..., :, None] - key_order[..., None, :]
    seen = (key_order >= 0)[..., None, :].expand_as(distance)
    if causal:
        seen = seen & (distance >= 0)
    if window is not None:
        seen = seen & (distance.abs() < window)
    return seen


def check_window(window: int | None) -> None:
    if window is not None and (not isinstance(window, int) or window < 1):
        raise ValueError(f"`window` must be a whole number, at least 1, or None for no window; got {window}.")


def check_mask(mask: Tensor, *, batch: int, heads: int, queries: int, keys: int) -> Tensor:
    """The mask with all four axes; raises ValueError where its dtype or shape does not fit."""
    full = (batch, heads, queries, keys)
    if mask.dtype != torch.bool and not mask.dtype.is_floating_point:
        raise ValueError(
            f"`mask` must be boolean (True = attend) or floating point (added to scores), with axes of 1 or "
            f"of {full}; got {mask.dtype} of shape {tuple(mask.shape)}. "
            "Convert 0/1 masks with `.bool()`."
        )
    if 2 <= mask.ndim <= 4:
        whole = mask if mask.ndim == 4 else mask[None, None] if mask.ndim == 2 else mask[:, None]
        if all(size in (1, wanted) for size, wanted in zip(whole.shape, full, strict=True)):
            return whole
    raise ValueError(
        f"`mask` must have shape (queries, keys), (batch, queries, keys) or (batch, heads, queries, keys) "
        f"with axes of 1 or of {full}; got {tuple(mask.shape)}."
    )

"""Positions: the three places where a transformer can be told the order of its tokens."""

from __future__ import annotations

from torch import Tensor, nn


class Positions(nn.Module):
    """Base of every encoding of positions; each subclass overrides the hooks that it acts through.

    Positions are always explicit: a tensor of token positions, ``(time,)`` for all rows alike or
    ``(batch, time)`` for each its own. So a cache can go on at any position, and rows of unequal
    length each at theirs.

    Attributes:
        head_dim: the head width that the encoding was made for; None if it fits any.

    >>> import torch
    >>> class Slope(Positions):
    ...     def bias(self, query_positions, key_positions):
    ...         return -0.5 * (query_positions[:, None] - key_positions[None]).abs()[None]
    >>> Slope().bias(torch.arange(2), torch.arange(2))
    tensor([[[-0.0000, -0.5000],
             [-0.5000, -0.0000]]])
    """

    head_dim: int | None = None

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002
        """Change token embeddings, once, before the first block. Shape: ``(batch, time, width)``."""
        return x

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Change queries and keys, in each attention. Shapes: ``(batch, heads, time, head_dim)``."""
        return q, k

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:  # noqa: ARG002
        """A term added to attention scores, ``(heads or 1, queries, keys)`` or with a batch axis before.

        None means no term, and lets attention use its fastest path.
        """
        return None


class NoPositions(Positions):
    """No encoding: a causal model still learns order, from how many tokens each can see.

    Source: Kazemnejad et al. 2023, arXiv:2305.19466 (NoPE). Departs from it: no.

    >>> import torch
    >>> x = torch.ones(1, 2, 4)
    >>> NoPositions().embed(x, torch.arange(2)) is x
    True
    """

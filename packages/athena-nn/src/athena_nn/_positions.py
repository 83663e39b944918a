"""Positions: the places where a transformer can be told the order of its tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Phases = tuple[Tensor, Tensor]
ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class Positions(nn.Module):
    """Base of every encoding of positions; each subclass overrides the hooks that it acts through.

    Positions are always explicit: a tensor of token positions, ``(time,)`` for all rows alike or
    ``(batch, time)`` for each its own. So a cache can go on at any position, and rows of unequal
    length each at theirs. A model calls `embed`, `phases` and `bias` once a pass, the other hooks in
    every attention; None from a hook means that it does not act, and keeps attention on its fast path.

    Attributes:
        head_dim: the head width that the encoding was made for; None if it fits any.
        num_heads: the number of heads that its bias was made for; None if it fits any.
        max_length: positions lie in ``[0, max_length)``; None if they are unbounded.
        weighs_values: whether `values` acts, so that attention must form its weights.
        selects_rows: whether its matrices are tables of which rows are selected, as an embedding's is:
            optimizers such as Muon treat these apart.

    >>> import torch
    >>> class Slope(Positions):
    ...     def bias(self, query_positions, key_positions):
    ...         distances = query_positions[..., :, None] - key_positions[..., None, :]
    ...         return -0.5 * distances.abs().unsqueeze(-3)
    >>> Slope().bias(torch.arange(2), torch.arange(2))
    tensor([[[-0.0000, -0.5000],
             [-0.5000, -0.0000]]])
    """

    head_dim: int | None = None
    num_heads: int | None = None
    max_length: int | None = None
    weighs_values: bool = False
    selects_rows: bool = False

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002
        """Change token embeddings, before the first block. Shape: ``(batch, time, width)``, kept."""
        return x

    def phases(self, positions: Tensor, dtype: torch.dtype) -> Phases | None:  # noqa: ARG002
        """What `rotate` needs at these positions, in ``dtype``: cosines and sines of the angles.

        Shape: each ``(time, pairs)``, or ``(batch, 1, time, pairs)`` for positions a row.
        """
        return None

    def rotate(self, x: Tensor, phases: Phases) -> Tensor:  # noqa: ARG002
        """Change queries, or keys, by `phases`. Shape: ``(batch, heads, time, head_dim)``, kept."""
        return x

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:  # noqa: ARG002
        """A term added to the scaled scores, the same in every attention.

        Shape: ``(heads or 1, queries, keys)``, or with a batch axis before for positions a row.
        """
        return None

    def score_mod(self, query_positions: Tensor, key_positions: Tensor) -> ScoreMod | None:  # noqa: ARG002
        """What `bias` adds, as a function ``(score, row, head, query, key) -> score`` of single scores.

        For `torch.nn.attention.flex_attention`, which long passes on an accelerator use: then no bias of
        all pairs is held. Shape of both positions: ``(batch, time)``. None: only `bias` knows.
        """
        return None

    def scores(
        self,
        q: Tensor,  # noqa: ARG002
        query_positions: Tensor,  # noqa: ARG002
        key_positions: Tensor,  # noqa: ARG002
    ) -> Tensor | None:
        """A term of the scaled scores that depends on the queries, given as they are after scaling.

        Shape: ``q (batch, heads, queries, head_dim) -> (batch, heads, queries, keys)``.
        """
        return None

    def values(self, weights: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """A term added to attention's output, from its weights; called only if ``weighs_values``.

        Shape: ``weights (batch, heads, queries, keys) -> (batch, heads, queries, head_dim)``.
        """
        raise NotImplementedError("Positions with `weighs_values` must override `values`.")


class NoPositions(Positions):
    """No encoding: a causal model still learns order, from how many tokens each can see.

    Source: Kazemnejad et al. 2023, arXiv:2305.19466 (NoPE). Departs from it: no.

    >>> import torch
    >>> x = torch.ones(1, 2, 4)
    >>> NoPositions().embed(x, torch.arange(2)) is x
    True
    """

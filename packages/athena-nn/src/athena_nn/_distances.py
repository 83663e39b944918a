"""Distances between tokens, clipped: rows of the tables that relative positions learn."""

from __future__ import annotations

from torch import Tensor


def distance_rows(query_positions: Tensor, key_positions: Tensor, max_distance: int) -> Tensor:
    r"""Rows of a table over the distances :math:`-D \ldots D`: key minus query, clipped, plus :math:`D`.

    Shape: ``(queries,)`` and ``(keys,)`` -> ``(queries, keys)``; with a batch axis before, the result is
    ``(batch, 1, queries, keys)``, the same for all heads.

    >>> import torch
    >>> distance_rows(torch.tensor([3]), torch.arange(5), max_distance=2)
    tensor([[0, 0, 1, 2, 3]])
    """
    distances = key_positions.unsqueeze(-2) - query_positions.unsqueeze(-1)
    rows = distances.clamp(-max_distance, max_distance) + max_distance
    return rows.unsqueeze(1) if rows.ndim == 3 else rows

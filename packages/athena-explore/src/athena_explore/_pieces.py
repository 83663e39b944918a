"""Large batches in pieces that stay in the caches."""

from __future__ import annotations

from typing import Any

from torch.utils._pytree import tree_leaves, tree_map

NUMBERS = 2**22  # in a piece; of more, memory is handed out and taken back at each operation


def pieces(observations: Any, *, numbers: int = NUMBERS) -> list[Any]:
    """Observations ``(B, *shape)`` as a list of such, each of so many numbers at most, or of one row.

    >>> import torch
    >>> [len(piece) for piece in pieces(torch.zeros(5, 10), numbers=20)]
    [2, 2, 1]
    """
    leaves = tree_leaves(observations)
    rows = max(1, numbers // max(1, sum(leaf.shape[1:].numel() for leaf in leaves)))
    if len(leaves[0]) <= rows:
        return [observations]
    starts = range(0, len(leaves[0]), rows)
    return [tree_map(lambda leaf, start=start: leaf[start : start + rows], observations) for start in starts]

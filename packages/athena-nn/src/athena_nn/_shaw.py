"""Shaw's relative positions: vectors learned for distances, added to keys and to values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from athena_nn._distances import distance_rows
from athena_nn._positions import Positions


class ShawPositions(Positions):
    r"""Add to each key, and to each value, a vector learned for its clipped distance from the query.

    .. math:: e_{ij} = \frac{q_i^\top (k_j + a^K_{ij})}{\sqrt d}, \qquad
              z_i = \sum_j \alpha_{ij} (v_j + a^V_{ij}), \qquad
              a_{ij} = w_{\operatorname{clip}(j - i, -D, D)}

    The vectors are shared by heads, and the products are formed a clipped distance, not a pair of
    tokens: memory grows with queries times keys, never times the head width. The term of the values
    needs attention's weights, so it takes attention off its fastest path. Exporting a model with it for
    any number of tokens needs a torch above 2.11, which fails on a constraint.

    Args:
        head_dim: width of a head :math:`d`.
        max_distance: :math:`D`, from which on distances share a vector.
        act_on_values: whether the term of the values, equation 3, is there.

    Shape: ``scores`` takes queries ``(batch, heads, queries, head_dim)`` and gives
    ``(batch, heads, queries, keys)``; ``values`` takes weights of that shape and gives queries' shape.
    Positions are ``(time,)`` or ``(batch, time)``. Raises ValueError if a size is below 1.
    Source: Shaw et al. 2018, arXiv:1803.02155, equations 3, 4 and 5. Departs from it: no.

    >>> part = ShawPositions(head_dim=4, max_distance=2)
    >>> part.scores(torch.randn(1, 2, 1, 4), torch.tensor([6]), torch.arange(7)).shape
    torch.Size([1, 2, 1, 7])
    """

    selects_rows = True

    def __init__(self, head_dim: int, *, max_distance: int = 16, act_on_values: bool = True) -> None:
        super().__init__()
        for name, size in (("head_dim", head_dim), ("max_distance", max_distance)):
            if size < 1:
                raise ValueError(f"`{name}` must be at least 1; got {size}.")
        self.head_dim = head_dim
        self.max_distance = max_distance
        self.weighs_values = act_on_values
        self.key_table = nn.Parameter(torch.empty(2 * max_distance + 1, head_dim))
        if act_on_values:
            self.value_table = nn.Parameter(torch.empty_like(self.key_table))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the tables anew from the global generator."""
        for table in self.parameters():
            nn.init.xavier_uniform_(table)

    def scores(self, q: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        by_distance = q @ self.key_table.T.to(q.device)
        rows = distance_rows(query_positions, key_positions, self.max_distance)
        return by_distance.gather(-1, rows.expand(*q.shape[:-1], rows.shape[-1]))

    def values(self, weights: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        rows = distance_rows(query_positions, key_positions, self.max_distance)
        by_distance = weights.new_zeros(*weights.shape[:-1], self.value_table.shape[0])
        by_distance = by_distance.scatter_add(-1, rows.expand_as(weights), weights)
        return by_distance @ self.value_table.to(weights.device)

    def extra_repr(self) -> str:
        return f"{self.head_dim}, max_distance={self.max_distance}, act_on_values={self.weighs_values}"

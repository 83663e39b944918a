"""T5's relative bias: a learned number for each head and bucket of distances."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_nn._distances import distance_rows
from athena_nn._positions import Positions, ScoreMod


def relative_buckets(
    distances: Tensor, *, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
) -> Tensor:
    r"""Buckets of distances (key minus query): one each for short ones, logarithmic ones for the rest.

    .. math:: \mathrm{bucket}(d) = \begin{cases} d & d < e \\
              \min\!\big(n - 1,\; e + \lfloor \frac{\ln(d/e)}{\ln(D/e)} (n - e) \rfloor\big) & \text{else}
              \end{cases}, \qquad e = \lfloor n/2 \rfloor

    for :math:`n` buckets and the maximal distance :math:`D`. With ``bidirectional``, half the buckets
    are for keys after the query; without, all those share bucket 0.

    Shape: kept. Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1, and the paper's program.
    Departs from it: no.

    >>> relative_buckets(torch.tensor([-200, -20, -3, 0, 3, 20, 200]))
    tensor([15, 10,  3,  0, 19, 26, 31])
    """
    if bidirectional:
        num_buckets //= 2
        first = (distances > 0).long() * num_buckets
        distances = distances.abs()
    else:
        first = 0
        distances = (-distances).clamp(min=0)
    exact = num_buckets // 2
    # in float32 and in this order, as in T5: the edges of buckets are rounded alike
    share = torch.log(distances.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    long = (exact + (share * (num_buckets - exact)).long()).clamp(max=num_buckets - 1)
    return first + torch.where(distances < exact, distances, long)


class RelativeBias(Positions):
    """Add to each score a number learned for its head and the bucket of its distance.

    T5 leaves scores unscaled; give its attention ``scale=1``. One part is shared by all blocks.

    Args:
        num_heads: heads of the attention.
        num_buckets: buckets of distances, see `relative_buckets`.
        max_distance: distances from here on share the last bucket.
        bidirectional: whether keys after the query have buckets of their own, as an encoder wants.

    Shape: ``bias`` gives ``(num_heads, queries, keys)``, or with a batch axis before for positions a
    row. Raises ValueError if a size is below 1, buckets are too few or odd with ``bidirectional``, or
    ``max_distance`` is not above the distances that have a bucket each.
    Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1. Departs from it: drawn normal with
    standard deviation 0.02, as the width that the paper's program divides by is not known here.

    >>> part = RelativeBias(num_heads=2)
    >>> part.bias(torch.tensor([4]), torch.arange(5)).shape
    torch.Size([2, 1, 5])
    """

    selects_rows = True

    def __init__(
        self,
        num_heads: int,
        *,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        if num_heads < 1:
            raise ValueError(f"`num_heads` must be at least 1; got {num_heads}.")
        least = 4 if bidirectional else 2
        if num_buckets < least or (bidirectional and num_buckets % 2):
            even = " and even" if bidirectional else ""
            raise ValueError(f"`num_buckets` must be at least {least}{even}; got {num_buckets}.")
        exact = num_buckets // least
        if max_distance <= exact:
            raise ValueError(
                f"`max_distance` must be above {exact}, the distances with a bucket each; got {max_distance}."
            )
        self.num_heads = num_heads
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.bidirectional = bidirectional
        self.weight = nn.Parameter(torch.empty(num_buckets, num_heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the table anew from the global generator."""
        nn.init.normal_(self.weight, std=0.02)

    def _by_distance(self) -> Tensor:
        """The table spread over distances, ``(heads, 2 * max_distance + 1)``: a pair costs one gather."""
        furthest = self.max_distance
        buckets = relative_buckets(
            torch.arange(-furthest, furthest + 1, device=self.weight.device),
            num_buckets=self.num_buckets,
            max_distance=furthest,
            bidirectional=self.bidirectional,
        )
        return F.embedding(buckets, self.weight).T

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        # heads come first in memory: a mask whose keys lie apart more than doubles the time of attention
        by_distance = self._by_distance().to(query_positions.device).unsqueeze(1)
        rows = distance_rows(query_positions, key_positions, self.max_distance)
        shape = (*rows.shape[:-3], *by_distance.shape[:1], *rows.shape[-2:])
        return by_distance.expand(*shape[:-1], -1).gather(-1, rows.expand(shape))

    def score_mod(self, query_positions: Tensor, key_positions: Tensor) -> ScoreMod:
        by_distance, furthest = self._by_distance().to(query_positions.device), self.max_distance

        def learned(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            distance = key_positions[row, key] - query_positions[row, query]
            return score + by_distance[head, distance.clamp(-furthest, furthest) + furthest]

        return learned

    def extra_repr(self) -> str:
        return (
            f"{self.num_heads}, num_buckets={self.num_buckets}, max_distance={self.max_distance}, "
            f"bidirectional={self.bidirectional}"
        )

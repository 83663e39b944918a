"""ALiBi: scores fall linearly with distance, at a slope of each head's own."""

from __future__ import annotations

import torch
from torch import Tensor

from athena_nn._positions import Positions, ScoreMod


def alibi_slopes(num_heads: int, device: torch.device | None = None) -> Tensor:
    r"""Slopes of the heads, in float32: a geometric sequence from :math:`2^{-8/n}` to :math:`2^{-8}`.

    For :math:`n` heads, a power of two, :math:`m_h = 2^{-8h/n}`, :math:`h = 1 \ldots n`. Other numbers
    take those of the largest power of two :math:`p < n`, and then every other one of :math:`2p`.

    Shape: ``(num_heads,)``. Source: Press et al. 2022, arXiv:2108.12409, section 3, and for other
    numbers the paper's program. Departs from it: no.

    >>> alibi_slopes(3)
    tensor([0.0625, 0.0039, 0.2500])
    """
    power = 1 << (num_heads.bit_length() - 1)
    head = torch.arange(1, num_heads + 1, dtype=torch.float32, device=device)
    exponents = torch.where(head <= power, head * (8 / power), (2 * (head - power) - 1) * (4 / power))
    return torch.exp2(-exponents)


class AlibiPositions(Positions):
    r"""Add :math:`-m_h |i - j|` to the score of query :math:`i` and key :math:`j` in head :math:`h`.

    The same in a decoder and, symmetric, in an encoder. It spans the positions of the keys given,
    those of a cache too, however few the queries.

    Args:
        num_heads: heads of the attention, any number.

    Shape: ``bias`` gives ``(num_heads, queries, keys)``, or with a batch axis before for positions a
    row, in float32. Raises ValueError if ``num_heads`` is below 1.
    Source: Press et al. 2022, arXiv:2108.12409, section 3. Departs from it: no.

    >>> AlibiPositions(num_heads=2).bias(torch.tensor([2]), torch.arange(3))
    tensor([[[-0.1250, -0.0625, -0.0000]],
    <BLANKLINE>
            [[-0.0078, -0.0039, -0.0000]]])
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1:
            raise ValueError(f"`num_heads` must be at least 1; got {num_heads}.")
        self.num_heads = num_heads

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        assert self.num_heads is not None
        distances = (key_positions.unsqueeze(-2) - query_positions.unsqueeze(-1)).abs()
        slopes = alibi_slopes(self.num_heads, query_positions.device)
        return distances.unsqueeze(-3) * -slopes[:, None, None]

    def score_mod(self, query_positions: Tensor, key_positions: Tensor) -> ScoreMod:
        assert self.num_heads is not None
        slopes = alibi_slopes(self.num_heads, query_positions.device)

        def fall(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return score - slopes[head] * (query_positions[row, query] - key_positions[row, key]).abs()

        return fall

    def extra_repr(self) -> str:
        return str(self.num_heads)

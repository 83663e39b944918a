"""Embeddings whose rows are held as 8-bit or 4-bit integers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from athena_compress._grid import Grid
from athena_compress._weight_only import CodedWeight, Codes


class CodedEmbedding(CodedWeight):
    r"""An embedding that looks integers up and scales the rows it found: :math:`y = s_i (q_i - z_i)`.

    Only rows that are looked up become floats. Without a scale a row (`group_size`), each has one scale.

    Args:
        embedding: the float layer, for its sizes and its padding index.
        codes: its weights as integers.
        grid: of the integers.

    Shape: ``(...)`` int -> ``(..., embedding_dim)``, in the dtype that the float layer had.
    Source: Guan et al. 2019, arXiv:1911.02079, section 3 (uniform row-wise). Departs from it: symmetric too.

    >>> from athena_compress import quantize
    >>> embedding = nn.Embedding(10, 4)
    >>> (quantize(embedding, "int8-weight-only").weight - embedding.weight).abs().max() < 0.02
    tensor(True)
    """

    def __init__(self, embedding: nn.Embedding, codes: Codes, grid: Grid) -> None:
        super().__init__(codes, grid, embedding.weight)
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self.padding_idx = embedding.padding_idx

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the float layer's name
        rows = F.embedding(input, self.weight_q)
        scale, zero_point = self.weight_scale[input], self.weight_zero_point
        return self.decoded(rows, scale, None if zero_point is None else zero_point[input], self.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.grid_repr()}"

"""Learned positions: a table added to token embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from athena_nn._embedding import embedding
from athena_nn._positions import Positions


class LearnedPositions(Positions):
    """Add a learned vector for each position to the embeddings.

    Args:
        max_length: number of positions; 0 to ``max_length - 1`` can be told.
        embed_dim: width of the embeddings.

    Shape: ``embed`` keeps ``(batch, time, embed_dim)``; ``positions`` is ``(time,)`` or
    ``(batch, time)``. Raises ValueError if a size is below 1, the embeddings are of another width, a
    sequence is longer than ``max_length``, and on the CPU, outside of ``torch.compile``, for any
    position outside the table. On an accelerator such a position is the device's own assertion:
    looking would make the host wait at every call.
    Source: Gehring et al. 2017, arXiv:1705.03122, section 3.1; drawn normal with standard deviation
    0.02 as in Radford et al. 2019 (GPT-2). Departs from it: no.

    >>> part = LearnedPositions(max_length=8, embed_dim=4)
    >>> part.embed(torch.zeros(2, 3, 4), torch.arange(5, 8)).shape
    torch.Size([2, 3, 4])
    """

    selects_rows = True

    def __init__(self, max_length: int, embed_dim: int) -> None:
        super().__init__()
        for name, size in (("max_length", max_length), ("embed_dim", embed_dim)):
            if size < 1:
                raise ValueError(f"`{name}` must be at least 1; got {size}.")
        self.max_length = max_length
        self.embed_dim = embed_dim
        self.weight = nn.Parameter(torch.empty(max_length, embed_dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the table anew from the global generator."""
        nn.init.normal_(self.weight, std=0.02)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        if x.shape[-1] != self.embed_dim:
            raise ValueError(f"`x` must have width `embed_dim` = {self.embed_dim}; got {tuple(x.shape)}.")
        length = positions.shape[-1]
        if length > self.weight.shape[0]:
            raise ValueError(
                f"A sequence must be at most `max_length` = {self.max_length} long; got {length}. "
                "Cut it, or build the positions with a larger `max_length`."
            )
        try:
            return x + embedding(self.weight, positions.to(self.weight.device)).to(x.device)
        except IndexError as error:  # the CPU's kernel looks at every position anyway
            low, high = (int(bound) for bound in positions.aminmax())
            raise ValueError(
                f"`positions` must lie in [0, `max_length` = {self.max_length}); "
                f"got {low if low < 0 else high}. Cut the sequence, or build with a larger `max_length`."
            ) from error

    def extra_repr(self) -> str:
        return f"{self.max_length}, {self.embed_dim}"

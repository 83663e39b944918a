"""The gated feed-forward layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    r"""Feed-forward layer with a gate: :math:`W_d\,(\operatorname{silu}(W_g x) \odot W_u x)`.

    It has three matrices where a plain one has two, so ``ff_dim`` of 8/3 of the width, rather than
    4 times, gives the same number of parameters. Gate and up projection are one matrix, gate first.

    Args:
        embed_dim: width of input and output.
        ff_dim: width between.
        bias: whether the projections have biases.

    Shape: ``(..., embed_dim) -> (..., embed_dim)``. Raises ValueError if a width is below 1.
    Source: Shazeer 2020, arXiv:2002.05202, equation 6. Departs from it: no.

    >>> import torch
    >>> SwiGLU(8, 16)(torch.zeros(2, 8)).abs().sum().item()
    0.0
    """

    def __init__(self, embed_dim: int, ff_dim: int, *, bias: bool = False) -> None:
        super().__init__()
        if embed_dim < 1 or ff_dim < 1:
            raise ValueError(f"`embed_dim` and `ff_dim` must be at least 1; got {embed_dim} and {ff_dim}.")
        self.gate_up = nn.Linear(embed_dim, 2 * ff_dim, bias=bias)
        self.down = nn.Linear(ff_dim, embed_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)

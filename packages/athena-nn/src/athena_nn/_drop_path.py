"""Stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    r"""Leave out a residual branch, for whole rows at random, while training.

    .. math:: y = \tfrac{b}{1-p}\, f, \qquad b \sim \mathrm{Bernoulli}(1 - p)\text{ a row}

    Args:
        p: probability of leaving it out.

    Shape: ``(batch, ...) -> (batch, ...)``. Raises ValueError if ``p`` lies outside [0, 1).
    Source: Huang et al. 2016, arXiv:1603.09382, equation 2. Departs from it: kept branches are scaled up
    while training, where the paper scales them down in evaluation.

    >>> DropPath(0.5).eval()(torch.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"`p` must lie in [0, 1); got {p}.")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = torch.empty(x.shape[0], *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return x * kept.bernoulli_(1 - self.p).div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"

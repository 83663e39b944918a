"""Sinusoidal positions, added to token embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from athena_nn._positions import Positions
from athena_nn._rotary_scaling import rotary_frequencies


def sinusoids(positions: Tensor, width: int, base: float = 10_000.0) -> Tensor:
    r"""Sines and cosines of positions at geometric wavelengths, in float32.

    .. math:: \mathrm{PE}_{p,2i} = \sin(p\, b^{-2i/d}), \qquad \mathrm{PE}_{p,2i+1} = \cos(p\, b^{-2i/d})

    Shape: ``(...,) -> (..., width)``, for an even width.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5. Departs from it: no.

    >>> sinusoids(torch.tensor([0, 1]), 4)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0100, 0.9999]])
    """
    angles = positions.unsqueeze(-1) * rotary_frequencies(width, base, positions.device)
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)


class SinusoidalPositions(Positions):
    """Add `sinusoids` to the embeddings; any position, computed rather than looked up.

    The paper multiplies embeddings by the root of their width before (section 3.4): embeddings drawn
    as small as usual today are otherwise drowned, and learn their size.

    Args:
        embed_dim: width of the embeddings, even.
        base: the ratio of the longest wavelength to the shortest.

    Shape: ``embed`` keeps ``(batch, time, embed_dim)``; ``positions`` is ``(time,)`` or
    ``(batch, time)``. Raises ValueError if ``embed_dim`` is odd or below 2, ``base`` is not above 1, or
    the embeddings are of another width.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5. Departs from it: no.

    >>> part = SinusoidalPositions(embed_dim=4)
    >>> part.embed(torch.zeros(1, 1, 4), torch.tensor([1]))
    tensor([[[0.8415, 0.5403, 0.0100, 0.9999]]])
    """

    def __init__(self, embed_dim: int, *, base: float = 10_000.0) -> None:
        super().__init__()
        if embed_dim < 2 or embed_dim % 2:
            raise ValueError(
                f"`embed_dim` must be even and at least 2 with sinusoidal positions; got {embed_dim}."
            )
        if not base > 1:
            raise ValueError(f"`base` must be above 1; got {base}.")
        self.embed_dim = embed_dim
        self.base = base

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        if x.shape[-1] != self.embed_dim:
            raise ValueError(f"`x` must have width `embed_dim` = {self.embed_dim}; got {tuple(x.shape)}.")
        return x + sinusoids(positions, self.embed_dim, self.base).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, base={self.base}"

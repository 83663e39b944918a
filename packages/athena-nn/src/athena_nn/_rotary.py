"""Rotary positions, in the half-split layout."""

from __future__ import annotations

import torch
from torch import Tensor

from athena_nn._positions import Positions


def rotary_phases(positions: Tensor, head_dim: int, base: float) -> Tensor:
    r"""Angles :math:`\phi_{p,i} = p\, b^{-2i/d}` in float32.

    Nothing here depends on a parameter or buffer, so a model cast to bfloat16 keeps exact phases;
    in bfloat16 itself, 8,192 positions collapse to 897. In float32 the error grows as
    :math:`2^{-23} p`: below 0.012 radians at position 100,000.

    Shape: ``(...,) -> (..., head_dim / 2)``.

    >>> rotary_phases(torch.tensor([0, 3]), 4, base=100.0)
    tensor([[0.0000, 0.0000],
            [3.0000, 0.3000]])
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    return positions[..., None].float() * torch.pow(base, -exponents)


def rotate_half_split(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    r"""Rotate each pair :math:`(x_i, x_{i+d/2})` by its angle.

    .. math:: (x_i \cos\phi_i - x_{i+d/2} \sin\phi_i,\; x_{i+d/2} \cos\phi_i + x_i \sin\phi_i)

    Shape: ``x (..., head_dim)``, ``cos`` and ``sin`` ``(..., head_dim / 2)``.

    >>> quarter = torch.tensor([0.0]), torch.tensor([1.0])
    >>> rotate_half_split(torch.tensor([1.0, 0.0]), *quarter)
    tensor([0., 1.])
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class RotaryPositions(Positions):
    r"""Rotate queries and keys by angles proportional to their positions.

    .. math:: \langle R_m q, R_n k \rangle = \langle q, R_{n-m} k \rangle

    so scores depend on positions through their distance alone. Pairs are half-split: dimension
    :math:`i` turns with :math:`i + d/2`, as in GPT-NeoX and in Hugging Face's Llama; weights trained
    in the interleaved layout of the paper (:math:`2i` with :math:`2i+1`) need their query and key
    rows permuted first. Phases are computed in float32, whatever the model's dtype; their cosines
    and sines are cast last.

    Args:
        head_dim: width of a head, even.
        base: :math:`b` of the angles :math:`p\, b^{-2i/d}`; larger turns slower.

    Shape: ``rotate`` keeps ``(batch, heads, time, head_dim)``; ``positions`` is ``(time,)`` or
    ``(batch, time)``. Raises ValueError if ``head_dim`` is odd or below 2, or ``base`` not above 0.
    Source: Su et al. 2021, arXiv:2104.09864, equations 14, 15 and 34. Departs from it: the layout.

    >>> rotary = RotaryPositions(head_dim=2)
    >>> q = k = torch.tensor([[[[1.0, 0.0]]]])
    >>> rotary.rotate(q, k, torch.tensor([1]))[0]
    tensor([[[[0.5403, 0.8415]]]])
    """

    def __init__(self, head_dim: int, base: float = 10_000.0) -> None:
        super().__init__()
        if head_dim < 2 or head_dim % 2:
            raise ValueError(f"`head_dim` must be even and at least 2 with rotary positions; got {head_dim}.")
        if not base > 0:
            raise ValueError(f"`base` must be above 0; got {base}.")
        self.head_dim = head_dim
        self.base = base

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        phases = rotary_phases(positions, q.shape[-1], self.base)
        if positions.ndim == 2:
            phases = phases[:, None]  # one for all heads of a row
        cos, sin = phases.cos().to(q.dtype), phases.sin().to(q.dtype)
        return rotate_half_split(q, cos, sin), rotate_half_split(k, cos, sin)

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}, base={self.base}"

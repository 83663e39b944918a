"""Rotary positions: the op that turns pairs of dimensions, and the part that holds its options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from athena_core import op
from athena_nn._positions import Phases, Positions
from athena_nn._rotary_scaling import RotaryScaling, rotary_frequencies

RotaryLayout = Literal["half-split", "interleaved"]


def _samples(
    device: str, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor, bool]]:
    """Inputs on which kernels are compared: whole and partial, shared and a row, single, empty, strided."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    for shape, pairs in (
        ((2, 3, 5, 8), (5, 4)),
        ((2, 3, 5, 8), (2, 1, 5, 4)),
        ((1, 2, 7, 11), (7, 3)),
        ((1, 8, 1, 64), (1, 32)),
        ((2, 1, 3, 2), (3, 1)),
        ((0, 2, 4, 6), (4, 3)),
        ((2, 2, 0, 6), (0, 3)),
    ):
        x, angles = draw(*shape), draw(*pairs)
        cos, sin = angles.cos().to(device, dtype), angles.sin().to(device, dtype)
        for interleaved in (False, True):
            yield x.to(device, dtype), cos, sin, interleaved
    heads_last = draw(2, 5, 3, 8).to(device, dtype).transpose(1, 2)
    angles = draw(5, 4)
    yield heads_last, angles.cos().to(device, dtype), angles.sin().to(device, dtype), False


def _rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    r"""Turn each pair of dimensions :math:`(a_i, b_i)` by its angle.

    .. math:: (a_i \cos\phi_i - b_i \sin\phi_i,\; b_i \cos\phi_i + a_i \sin\phi_i)

    Half-split pairs are :math:`(x_i, x_{i+n})` for :math:`n` angles; interleaved ones
    :math:`(x_{2i}, x_{2i+1})`. Dimensions from :math:`2n` on pass unchanged.

    Shape: ``x (..., head_dim)``, ``cos`` and ``sin`` ``(..., n)``, in ``x``'s dtype -> ``(..., head_dim)``,
    laid out in memory as ``torch.empty_like(x)``, or contiguous where dimensions pass unchanged.
    Source: Su et al. 2021, arXiv:2104.09864, equation 34. Departs from it: half-split pairs.

    >>> import torch
    >>> rotary(torch.tensor([1.0, 0.0]), cos=torch.tensor([0.0]), sin=torch.tensor([1.0]))
    tensor([0., 1.])
    """
    n = cos.shape[-1]
    turned, rest = (x, None) if x.shape[-1] == 2 * n else (x[..., : 2 * n], x[..., 2 * n :])
    # y = x cos + partner(x) (-sin, sin): three passes over x, against five for the formula by halves
    if interleaved:
        cos = torch.stack((cos, cos), -1).flatten(-2)
        sin = torch.stack((-sin, sin), -1).flatten(-2)
        partner = turned.unflatten(-1, (n, 2)).flip(-1).flatten(-2)
    else:
        cos, sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        partner = turned.roll(n, -1)
    y = torch.addcmul(turned * cos, partner, sin)
    return y if rest is None else torch.cat((y, rest), -1)


rotary = op(
    "athena_nn::rotary(Tensor x, Tensor cos, Tensor sin, bool interleaved=False) -> Tensor",
    reference=_rotary,
    samples=_samples,
)


class RotaryPositions(Positions):
    r"""Rotate queries and keys by angles proportional to their positions.

    .. math:: \langle R_m q, R_n k \rangle = \langle q, R_{n-m} k \rangle, \qquad
              \phi_{p,i} = p\, b^{-2i/d}

    so scores depend on positions through their distance alone. Angles are computed in float32 from
    integer positions, whatever the model's dtype, and nothing is stored; cosines and sines are cast
    last. In bfloat16 itself, 8,192 positions would collapse to 897. In float32 the error of an angle
    grows as :math:`2^{-23} p`: below 0.012 radians at position 100,000.

    Args:
        head_dim: width of a head.
        base: :math:`b`; larger turns slower.
        layout: which dimensions make a pair. "half-split" turns :math:`i` with :math:`i + d/2`, as
            in GPT-NeoX and in Hugging Face's Llama; "interleaved" turns :math:`2i` with
            :math:`2i+1`, as in the paper, GPT-J and Meta's Llama. Weights trained in one are
            silently wrong in the other: see `change_rotary_layout`.
        rotary_dim: how many of the first dimensions turn, :math:`d`; None turns all.
        scaling: frequencies for texts longer than those of training, such as `YarnScaling`.

    Shape: ``rotate`` keeps ``(batch, heads, time, head_dim)``; ``positions`` is ``(time,)`` or
    ``(batch, time)``. Raises ValueError if ``head_dim`` or ``rotary_dim`` is odd or below 2,
    ``rotary_dim`` exceeds ``head_dim``, ``base`` is not above 1, or the layout is unknown.
    Source: Su et al. 2021, arXiv:2104.09864, equations 14, 15 and 34. Departs from it: the layout,
    and the phases, which are a model's to compute once for all its blocks.

    >>> part = RotaryPositions(head_dim=2)
    >>> phases = part.phases(torch.tensor([0, 1]), torch.float32)
    >>> part.rotate(torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), phases)
    tensor([[[[1.0000, 0.0000],
              [0.5403, 0.8415]]]])
    """

    def __init__(
        self,
        head_dim: int,
        *,
        base: float = 10_000.0,
        layout: RotaryLayout = "half-split",
        rotary_dim: int | None = None,
        scaling: RotaryScaling | None = None,
    ) -> None:
        super().__init__()
        if rotary_dim is None:
            if head_dim < 2 or head_dim % 2:
                raise ValueError(
                    f"`head_dim` must be even and at least 2 with rotary positions; got {head_dim}."
                )
            rotary_dim = head_dim
        if rotary_dim < 2 or rotary_dim % 2 or rotary_dim > head_dim:
            raise ValueError(f"`rotary_dim` must be even and lie in [2, {head_dim}]; got {rotary_dim}.")
        if not base > 1:
            raise ValueError(f"`base` must be above 1; got {base}.")
        if layout not in get_args(RotaryLayout):
            raise ValueError(f"`layout` must be one of {', '.join(get_args(RotaryLayout))}; got {layout!r}.")
        self.head_dim, self.rotary_dim = head_dim, rotary_dim
        self.base = base
        self.layout = layout
        self.scaling = scaling

    def phases(self, positions: Tensor, dtype: torch.dtype) -> Phases:
        compute = rotary_frequencies if self.scaling is None else self.scaling.frequencies
        # integers times float32 are float32
        angles = positions.unsqueeze(-1) * compute(self.rotary_dim, self.base, positions.device)
        if positions.ndim == 2:
            angles = angles.unsqueeze(1)  # the same for all heads of a row
        cos, sin = angles.cos(), angles.sin()
        if self.scaling is not None and self.scaling.magnitude != 1:
            cos, sin = self.scaling.magnitude * cos, self.scaling.magnitude * sin
        return cos.to(dtype), sin.to(dtype)

    def rotate(self, x: Tensor, phases: Phases) -> Tensor:
        return rotary(x, *phases, self.layout == "interleaved")

    def extra_repr(self) -> str:
        return (
            f"{self.head_dim}, base={self.base}, layout={self.layout!r}, rotary_dim={self.rotary_dim}, "
            f"scaling={self.scaling}"
        )


def change_rotary_layout(
    rows: Tensor, head_dim: int, *, to: RotaryLayout, rotary_dim: int | None = None
) -> Tensor:
    """Order the rows of a query or key projection for the other layout of `RotaryPositions`.

    Attention then computes the same scores in the layout ``to`` as it did before in the other one.

    Args:
        rows: the weight or the bias of the projection, its rows head by head.
        head_dim: width of a head.
        to: the layout that is wanted; the rows are taken to be in the other one.
        rotary_dim: how many of the first dimensions of a head turn; None for all.

    Shape: ``(heads * head_dim, ...)``, kept. Raises ValueError if ``head_dim`` does not divide the
    rows, or ``rotary_dim`` is odd or exceeds it. Source: none; it follows from equation 34 of
    arXiv:2104.09864.

    >>> change_rotary_layout(torch.arange(6), 6, to="half-split")
    tensor([0, 2, 4, 1, 3, 5])
    >>> change_rotary_layout(torch.tensor([0, 2, 4, 1, 3, 5]), 6, to="interleaved")
    tensor([0, 1, 2, 3, 4, 5])
    """
    rotary_dim = head_dim if rotary_dim is None else rotary_dim
    if head_dim < 1 or rows.shape[0] % head_dim:
        raise ValueError(f"`head_dim` must divide the {rows.shape[0]} rows; got {head_dim}.")
    if rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
        raise ValueError(f"`rotary_dim` must be even and lie in [2, {head_dim}]; got {rotary_dim}.")
    if to not in get_args(RotaryLayout):
        raise ValueError(f"`to` must be one of {', '.join(get_args(RotaryLayout))}; got {to!r}.")
    pairs = (-1, 2) if to == "half-split" else (2, -1)
    order = torch.arange(head_dim, device=rows.device)
    order[:rotary_dim] = order[:rotary_dim].unflatten(0, pairs).T.flatten()
    return rows.unflatten(0, (-1, head_dim))[:, order].flatten(0, 1)

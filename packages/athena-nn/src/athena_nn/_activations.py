"""Activations, each a layer without parameters; the gated ones are ops."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_core import op


def _samples(device: str, dtype: torch.dtype, generator: torch.Generator) -> Iterator[tuple[Tensor]]:
    """Inputs on which kernels are compared: odd, empty and strided, saturating on either side."""
    for shape in ((2, 3, 64), (5, 14), (1, 2), (4, 258), (0, 16), (3, 0), (3, 1000)):
        drawn = torch.randn(shape, generator=generator)
        yield (drawn.to(device, dtype),)
        yield (10 * drawn.to(device, dtype),)
    wide = torch.randn(6, 32, generator=generator).to(device, dtype)
    yield (wide[:, ::2],)
    yield (wide.T.contiguous().T,)


def _halves(gate_up: Tensor) -> tuple[Tensor, Tensor]:
    if gate_up.shape[-1] % 2:
        raise ValueError(f"the last axis of `gate_up` must be even; got {tuple(gate_up.shape)}.")
    gate, up = gate_up.chunk(2, -1)
    return gate, up


def _swiglu(gate_up: Tensor) -> Tensor:
    r"""Pass the second half through a SiLU gate, the first: :math:`\operatorname{silu}(g) \odot u`.

    Shape: ``(..., 2 n) -> (..., n)``. Raises ValueError if the last axis is odd.
    Source: Shazeer 2020, arXiv:2002.05202, equation 6. Departs from it: no.

    >>> swiglu(torch.tensor([0.0, 20.0, 7.0, 3.0]))
    tensor([ 0., 60.])
    """
    gate, up = _halves(gate_up)
    return F.silu(gate) * up


def _geglu(gate_up: Tensor) -> Tensor:
    r"""Pass the second half through a GELU gate, the first: :math:`\operatorname{gelu}(g) \odot u`.

    :math:`\operatorname{gelu}(g) = g\,\Phi(g)` with the exact normal distribution function.

    Shape: ``(..., 2 n) -> (..., n)``. Raises ValueError if the last axis is odd.
    Source: Shazeer 2020, arXiv:2002.05202, equation 6. Departs from it: no.

    >>> geglu(torch.tensor([0.0, 20.0, 7.0, 3.0]))
    tensor([ 0., 60.])
    """
    gate, up = _halves(gate_up)
    return F.gelu(gate) * up


swiglu = op("athena_nn::swiglu(Tensor gate_up) -> Tensor", reference=_swiglu, samples=_samples)
geglu = op("athena_nn::geglu(Tensor gate_up) -> Tensor", reference=_geglu, samples=_samples)


class SwiGLU(nn.Module):
    """The layer of `swiglu`: gate first, ``(..., 2 n) -> (..., n)``. It has no parameters.

    Raises, source and departures: those of `swiglu`.

    >>> SwiGLU()(torch.tensor([0.0, 20.0, 7.0, 3.0]))
    tensor([ 0., 60.])
    """

    gated = True

    def forward(self, gate_up: Tensor) -> Tensor:
        return swiglu(gate_up)


class GEGLU(nn.Module):
    """The layer of `geglu`: gate first, ``(..., 2 n) -> (..., n)``. It has no parameters.

    Raises, source and departures: those of `geglu`.

    >>> GEGLU()(torch.tensor([0.0, 20.0, 7.0, 3.0]))
    tensor([ 0., 60.])
    """

    gated = True

    def forward(self, gate_up: Tensor) -> Tensor:
        return geglu(gate_up)


class GELUTanh(nn.Module):
    r"""GELU by its tanh approximation, as GPT-2 was trained with.

    .. math:: \tfrac12 x \bigl(1 + \tanh\bigl(\sqrt{2/\pi}\,(x + 0.044715\, x^3)\bigr)\bigr)

    Shape: any. Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2. Departs from it: no.

    >>> GELUTanh()(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1588,  0.0000,  0.8412])
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")

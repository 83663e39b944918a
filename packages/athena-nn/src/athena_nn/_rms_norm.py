"""Root-mean-square normalisation: an op with its reference, and the layer that holds the gain."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from athena_core import op


def _samples(
    device: str, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Inputs on which kernels are compared: odd, single, empty, strided, tiny and large."""
    for shape in ((2, 3, 64), (5, 7), (1, 1), (4, 257), (0, 16), (3, 1000)):
        x = torch.randn(shape, generator=generator).to(device, dtype)
        weight = torch.randn(shape[-1], generator=generator).to(device, dtype)
        yield x, weight, 1e-6
        yield 1e-3 * x, weight, 1e-5
    wide = torch.randn(6, 32, generator=generator).to(device, dtype)
    yield wide[:, ::2], wide[0, 16:], 1e-6
    yield wide.T.contiguous().T, wide[0], 1e-6


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    r"""Divide each row by its root mean square, and scale its elements.

    .. math:: y = \frac{x}{\sqrt{\tfrac1n \sum_{i=1}^n x_i^2 + \epsilon}} \odot w

    Computed in float32 (float64 for float64 inputs), and cast to ``x``'s dtype last.

    Shape: ``x (..., width)``, ``weight (width,)`` -> ``(..., width)``.
    Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4. Departs from it: :math:`\epsilon`
    inside the root, as in Llama.

    >>> import torch
    >>> rms_norm(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), 0.0)
    tensor([0.8485, 2.2627])
    """
    wide = x if x.dtype == torch.float64 else x.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * inverse * weight).to(x.dtype)


rms_norm = op(
    "athena_nn::rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", reference=_rms_norm, samples=_samples
)


class RMSNorm(nn.Module):
    """The layer of `rms_norm`: a gain of ones, learned.

    Args:
        width: size of the last axis.
        eps: added to the mean square.

    Shape: ``(..., width) -> (..., width)``. Raises ValueError if ``width < 1`` or ``eps < 0``.
    Source and departures: those of `rms_norm`.

    >>> import torch
    >>> RMSNorm(4)(torch.full((2, 4), 5.0))[0]
    tensor([1., 1., 1., 1.], grad_fn=<SelectBackward0>)
    """

    def __init__(self, width: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"`width` must be at least 1; got {width}.")
        if not eps >= 0:
            raise ValueError(f"`eps` must be at least 0; got {eps}.")
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"

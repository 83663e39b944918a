"""Layer normalisation: an op whose reference is torch's own, and the layer that holds gain and bias."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_core import op


def _samples(
    device: str, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor | None, float]]:
    """Inputs on which kernels are compared: odd, empty and strided, with and without a bias."""
    for shape in ((2, 3, 64), (5, 7), (4, 257), (0, 16), (3, 1000)):
        x = torch.randn(shape, generator=generator).to(device, dtype)
        weight, bias = torch.randn(2, shape[-1], generator=generator).to(device, dtype)
        yield x, weight, bias, 1e-5
        yield x, weight, None, 1e-5
    wide = torch.randn(6, 32, generator=generator).to(device, dtype)
    yield wide[:, ::2], wide[0, 16:], wide[1, 16:], 1e-5
    yield wide.T.contiguous().T, wide[0], wide[1], 1e-5


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    r"""Shift each row to mean zero, divide it by its standard deviation, and scale its elements.

    .. math:: y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot w + b, \qquad
              \mu = \tfrac1n \sum_i x_i, \quad \sigma^2 = \tfrac1n \sum_i (x_i - \mu)^2

    Mean and variance are accumulated in float32 for half precision.

    Shape: ``x (..., width)``, ``weight`` and ``bias`` ``(width,)`` -> ``(..., width)``. Raises ValueError
    if ``weight`` has another shape than the last axis of ``x``.
    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450, equation 4. Departs from it: :math:`\epsilon`.

    >>> import torch
    >>> layer_norm(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.5]), 0.0)
    tensor([-1.0000,  2.5000])
    """
    if weight.shape != x.shape[-1:]:
        raise ValueError(
            f"`weight` must have the shape of the last axis of `x`; "
            f"got {tuple(weight.shape)} for x of {tuple(x.shape)}."
        )
    return F.layer_norm(x, weight.shape, weight, bias, eps)


layer_norm = op(
    "athena_nn::layer_norm(Tensor x, Tensor weight, Tensor? bias, float eps) -> Tensor",
    reference=_layer_norm,
    samples=_samples,
)


class LayerNorm(nn.Module):
    """The layer of `layer_norm`: a gain of ones and, unless switched off, a bias of zeros, learned.

    Args:
        width: size of the last axis.
        eps: added to the variance.
        bias: whether there is one.

    Shape: ``(..., width) -> (..., width)``. Raises ValueError if ``width < 1`` or ``eps < 0``.
    Source and departures: those of `layer_norm`. State: that of `torch.nn.LayerNorm`.

    >>> import torch
    >>> LayerNorm(2)(torch.tensor([[1.0, 3.0]]))
    tensor([[-1.0000,  1.0000]], grad_fn=<NativeLayerNormBackward0>)
    """

    def __init__(self, width: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"`width` must be at least 1; got {width}.")
        if not eps >= 0:
            raise ValueError(f"`eps` must be at least 0; got {eps}.")
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gains 1, biases 0."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}, bias={self.bias is not None}"

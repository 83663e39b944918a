"""Root-mean-square normalisation: an op with its reference, and the layer that holds the gain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_core import op
from athena_nn._analytic import analytic


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

    Shape: ``x (..., width)``, ``weight (width,)`` -> ``(..., width)``. Raises ValueError if they differ.
    Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4. Departs from it: :math:`\epsilon`
    inside the root, as in Llama.

    >>> import torch
    >>> rms_norm(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), 0.0)
    tensor([0.8485, 2.2627])
    """
    if weight.shape != x.shape[-1:]:
        raise ValueError(
            f"`weight` must have the shape of the last axis of `x`; "
            f"got {tuple(weight.shape)} for x of {tuple(x.shape)}."
        )
    return _on_cpu(x, weight, eps) if x.is_cpu else _formula(x, weight, eps)


def _formula(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, eps)


def _forward(
    needed: Sequence[bool],  # noqa: ARG001
    x: Tensor,
    weight: Tensor,
    eps: float,
) -> tuple[Tensor, tuple[Tensor]]:
    """Three passes, and few calls: with a single row, those are what takes the time.

    Contiguous at last, as the formula is: a compiler relies on its layout.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    norm = torch.linalg.vector_norm(wide, 2, -1, True)
    bias = torch.scalar_tensor(eps, dtype=norm.dtype)
    inverse = torch.addcmul(bias, norm, norm, value=1 / max(1, x.shape[-1])).rsqrt_()
    if wide is x:
        return (wide * inverse).mul_(weight).contiguous(), (inverse,)
    return wide.mul_(inverse).mul_(weight).to(x.dtype).contiguous(), (inverse,)


def _backward(
    needed: Sequence[bool], saved: Sequence[Tensor], args: tuple[Tensor, Tensor, float], grad: Tensor
) -> tuple[Tensor | None, Tensor | None, None]:
    r"""With :math:`r` the inverse root mean square, and :math:`g` the gradient of :math:`y`,

    .. math:: \nabla_x = r \bigl(g \odot w - x\, \tfrac{r^2}{n} \sum_i g_i x_i w_i\bigr), \qquad
              \nabla_w = \sum_{rows} r\, g \odot x
    """
    (inverse,), (x, weight, _) = saved, args
    width = x.shape[-1]
    rows, gradients = (one.reshape(-1, width).to(inverse.dtype) for one in (x, grad))
    r, gain = inverse.view(-1), weight.to(inverse.dtype)
    product = rows * gradients
    for_weight = torch.mv(product.T, r).to(weight.dtype) if needed[1] else None
    if not needed[0]:
        return None, for_weight, None
    along = torch.mv(product, gain).mul_(r).mul_(r).div_(-max(1, width))
    for_x = torch.mul(gradients, gain, out=product).addcmul_(rows, along[:, None]).mul_(r[:, None])
    return for_x.to(x.dtype).view(x.shape), for_weight, None


_on_cpu = analytic(_formula, _forward, _backward)
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
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gains 1."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"

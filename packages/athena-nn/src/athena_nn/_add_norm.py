"""A sum and its norm, as ops: what stands between two parts of a transformer block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from athena_core import op
from athena_nn._layer_norm import LayerNorm, layer_norm
from athena_nn._rms_norm import RMSNorm, rms_norm


def _drawn(
    device: str, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for shape in ((2, 3, 64), (5, 7), (1, 1), (4, 257), (0, 16), (3, 1000)):
        x, residual = torch.randn(2, *shape, generator=generator).to(device, dtype)
        yield x, residual, torch.randn(shape[-1], generator=generator).to(device, dtype)
    x, residual = torch.randn(2, 6, 32, generator=generator).to(device, dtype)
    yield x[:, :16], residual[:, 16:], x[0, 16:].clone()
    yield x[:, ::2], residual[:, ::2], x[0, 16:].clone()


def _rms_samples(
    device: str, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor, float]]:
    """Inputs on which kernels are compared: odd, single, empty and strided."""
    for x, residual, weight in _drawn(device, dtype, generator):
        yield x, residual, weight, 1e-5


def _layer_samples(
    device: str, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None, float]]:
    """Inputs on which kernels are compared: odd, single, empty and strided, with and without a bias."""
    for number, (x, residual, weight) in enumerate(_drawn(device, dtype, generator)):
        if x.shape[-1] > 1:  # a row of one element is its own mean: rounding alone is left of its gradient
            yield x, residual, weight, None if number % 2 else weight.flip(0), 1e-5


def _add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    r"""Add ``x`` to the residual stream; return the sum, and its `rms_norm`.

    .. math:: s = r + x, \qquad y = \operatorname{rms\_norm}(s)

    Shape: ``x`` and ``residual`` ``(..., width)``, ``weight (width,)`` -> both ``(..., width)``.
    Raises ValueError as `rms_norm` does. Source and departures: those of `rms_norm`.

    >>> import torch
    >>> add_rms_norm(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]), 0.0)
    (tensor([3., 4.]), tensor([0.8485, 2.2627]))
    """
    total = residual + x
    return total, rms_norm(total, weight, eps)


def _add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    r"""Add ``x`` to the residual stream; return the sum, and its `layer_norm`.

    .. math:: s = r + x, \qquad y = \operatorname{layer\_norm}(s)

    Shape: ``x`` and ``residual`` ``(..., width)``, ``weight`` and ``bias`` ``(width,)`` -> both
    ``(..., width)``. Raises ValueError as `layer_norm` does. Source and departures: those of `layer_norm`.

    >>> import torch
    >>> add_layer_norm(
    ...     torch.tensor([1.0, 1.0]), torch.tensor([0.0, 2.0]), torch.tensor([1.0, 2.0]), None, 0.0
    ... )
    (tensor([1., 3.]), tensor([-1.,  2.]))
    """
    total = residual + x
    return total, layer_norm(total, weight, bias, eps)


add_rms_norm = op(
    "athena_nn::add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
    reference=_add_rms_norm,
    samples=_rms_samples,
)
add_layer_norm = op(
    "athena_nn::add_layer_norm(Tensor x, Tensor residual, Tensor weight, Tensor? bias, float eps)"
    " -> (Tensor, Tensor)",
    reference=_add_layer_norm,
    samples=_layer_samples,
)


def add_norm(norm: nn.Module, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum and what the module makes of it: by one op where the module is a norm that has one.

    A subclass, a parametrized module and one with hooks is called as ever.
    """
    kind = type(norm)
    if (kind is RMSNorm or kind is LayerNorm) and not _overheard(norm):
        any_norm: Any = norm
        if kind is RMSNorm:
            return add_rms_norm(x, residual, any_norm.weight, any_norm.eps)
        return add_layer_norm(x, residual, any_norm.weight, any_norm.bias, any_norm.eps)
    total = residual + x
    return total, norm(total)


def _overheard(norm: nn.Module) -> Any:
    """Whether calling the module does more than its own class's forward."""
    return (
        norm._forward_hooks
        or norm._forward_pre_hooks
        or norm._backward_hooks
        or norm._backward_pre_hooks
        or torch_module._has_any_global_hook()
        or norm._compiled_call_impl is not None
        or "forward" in norm.__dict__
    )

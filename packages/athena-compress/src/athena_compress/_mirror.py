"""Weights with output channels first: a transposed convolution as the convolution that it is."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd


def outputs_first(layer: nn.Module) -> Tensor:
    """The weight with output channels on axis 0; that of a transposed convolution is mirrored.

    >>> outputs_first(nn.ConvTranspose1d(3, 4, 5)).shape
    torch.Size([4, 3, 5])
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach()
    return mirrored(weight, layer.groups) if isinstance(layer, _ConvTransposeNd) else weight


def mirrored(weight: Tensor, groups: int) -> Tensor:
    """Filters of a transposed convolution as those of the convolution that it is.

    Shape: ``(in, out / groups, *kernel) -> (out, in / groups, *kernel)``.

    >>> import torch
    >>> mirrored(torch.arange(6).view(1, 2, 3), 1).tolist()
    [[[2, 1, 0]], [[5, 4, 3]]]
    """
    grouped = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return grouped.flip(tuple(range(2, weight.ndim))).contiguous()

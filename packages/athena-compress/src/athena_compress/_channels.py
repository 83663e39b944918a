"""Where the channels of a linear layer or a convolution lie in its weight."""

from __future__ import annotations

from typing import Any, TypeGuard

from torch import Tensor, nn

ChannelLayer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, *TRANSPOSED)


def runs_as(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether it computes what one of these does: a subclass that overrides ``forward`` may not."""
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def is_channel_layer(module: nn.Module) -> TypeGuard[ChannelLayer]:
    """Whether its weight can be changed by channels: it is a plain layer, and not parametrized."""
    return runs_as(module, nn.Linear, *CONVOLUTIONS) and not any(module.children())


def out_channels(layer: ChannelLayer) -> int:
    """How many channels, or features, it makes."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def in_channels(layer: ChannelLayer) -> int:
    """How many channels, or features, it takes."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def by_channel(layer: ChannelLayer, weight: Tensor) -> Tensor:
    """A view of its weight as ``(groups, outputs of a group, inputs of a group, *kernel)``.

    Channels are numbered group by group, on either side.
    """
    if isinstance(layer, nn.Linear):
        return weight[None]
    grouped = weight.unflatten(0, (layer.groups, -1))
    return grouped.transpose(1, 2) if isinstance(layer, TRANSPOSED) else grouped


def scale_outputs(layer: ChannelLayer, weight: Tensor, scale: Tensor) -> None:
    """Multiply a weight, in place, by a factor for each channel that the layer makes."""
    grouped = by_channel(layer, weight)
    grouped *= scale.reshape(grouped.shape[0], -1, *[1] * (grouped.ndim - 2))


def scale_inputs(layer: ChannelLayer, weight: Tensor, scale: Tensor) -> None:
    """Multiply a weight, in place, by a factor for each channel that the layer takes."""
    grouped = by_channel(layer, weight)
    grouped *= scale.reshape(grouped.shape[0], 1, -1, *[1] * (grouped.ndim - 3))


def output_ranges(layer: ChannelLayer, weight: Tensor) -> Tensor:
    """The largest magnitude in the weights of each channel that the layer makes."""
    return _ranges(by_channel(layer, weight))


def input_ranges(layer: ChannelLayer, weight: Tensor) -> Tensor:
    """The largest magnitude in the weights of each channel that the layer takes."""
    return _ranges(by_channel(layer, weight).transpose(1, 2))


def _ranges(grouped: Tensor) -> Tensor:
    channels = grouped.shape[0] * grouped.shape[1]
    flat = grouped.abs().flatten(2)
    return flat.amax(dim=2).flatten() if flat.numel() else flat.new_zeros(channels)


def replace_weight(layer: Any, weight: Tensor, bias: Tensor | None) -> None:
    """Give a layer parameters of its own, which another one that shared the old ones keeps."""
    trained = layer.weight.requires_grad
    layer.weight = nn.Parameter(weight, requires_grad=trained)
    layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=trained)

"""Batch normalization folded into the layer before it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from athena_compress._channels import (
    ChannelLayer,
    is_channel_layer,
    out_channels,
    replace_weight,
    runs_as,
    scale_outputs,
)
from athena_compress._copied import copied
from athena_compress._data_flow import DataFlow, Step, data_flow, is_hooked

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm
# by the dimensions that a batch of outputs has
_LAYERS: dict[int, tuple[type[nn.Module], ...]] = {
    2: (nn.Linear,),
    3: (nn.Conv1d, nn.ConvTranspose1d),
    4: (nn.Conv2d, nn.ConvTranspose2d),
}
_NORMS: dict[int, tuple[type[nn.Module], ...]] = {
    2: (nn.BatchNorm1d, nn.SyncBatchNorm),
    3: (nn.BatchNorm1d, nn.SyncBatchNorm),
    4: (nn.BatchNorm2d, nn.SyncBatchNorm),
}


def folded_weight_bias(layer: ChannelLayer, norm: BatchNorm) -> tuple[Tensor, Tensor]:
    r"""The weight and bias of a layer that does what the layer and a batch normalization after it do.

    .. math:: W' = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}\,W, \qquad
              b' = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}\,(b - \mu) + \beta

    for each output channel, with the running mean :math:`\mu` and variance :math:`\sigma^2`. Output
    channels lie on axis 0 of the weight; those of a transposed convolution on axis 1, within each group.

    Shape: as ``layer.weight``, and ``(out_channels,)``. Both are in the weight's dtype, computed in at least
    float32. Raises ValueError if the norm keeps no running statistics or has another number of channels.
    Source: Jacob et al. 2018, arXiv:1712.05877, equation 14. Departs from it: no.

    >>> layer, norm = nn.Linear(1, 1), nn.BatchNorm1d(1, eps=0.0)
    >>> _ = nn.init.constant_(layer.weight, 3.0), nn.init.constant_(layer.bias, 1.0)
    >>> _ = norm.running_mean.fill_(5.0), norm.running_var.fill_(4.0)
    >>> [round(value.item(), 4) for value in folded_weight_bias(layer, norm)]
    [1.5, -2.0]
    """
    channels = out_channels(layer)
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(
            "`norm` must keep running statistics; got track_running_stats=False, which normalizes by each "
            "batch's own. Leave it unfolded."
        )
    if norm.num_features != channels:
        raise ValueError(
            f"`norm` must have the layer's {channels} output channels; got {norm.num_features}. "
            "Pass the norm that follows this layer."
        )
    weight = layer.weight.detach()
    dtype = torch.promote_types(weight.dtype, torch.float32)
    mean, variance = norm.running_mean.to(dtype), norm.running_var.to(dtype)
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().to(dtype)
    shift = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().to(dtype)
    bias = -mean if layer.bias is None else layer.bias.detach().to(dtype) - mean
    scaled = weight.to(dtype, copy=True)
    scale_outputs(layer, scaled, scale)
    return scaled.to(weight.dtype), (bias * scale + shift).to(weight.dtype)


def conv_norm_pairs(model: nn.Module, example_inputs: Any = None) -> list[tuple[str, str]]:
    """Names of convolutions or linear layers, each with the batch normalization that alone takes its output.

    Args:
        model: any module. It is neither changed nor run; a copy in evaluation mode is.
        example_inputs: a tensor, a tuple of positional arguments, or a mapping of named ones. With them
            the model is run, and pairs are those of that run, whatever Python decides on the way. Without,
            torch.fx traces it, and a linear layer before a norm is taken to make ``(batch, features)``;
            if it cannot, only neighbours in an `torch.nn.Sequential` are pairs.

    No pairs are made of layers that are called twice, stand in several places, have hooks, are
    parametrized, or whose weight a function outside reads, nor of norms without running statistics.

    >>> conv_norm_pairs(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
    [('0', '1')]
    """
    flow = data_flow(model, example_inputs)
    if flow is None:
        return _neighbours(model)
    by_input = {step.inputs[0]: step for step in flow.steps if step.name and len(step.inputs) == 1}
    pairs = []
    for step in flow.steps:
        norm = by_input.get(step.outputs[0]) if step.name and len(step.outputs) == 1 else None
        if norm is not None and _is_pair(flow, step, norm):
            pairs.append((step.name, norm.name))
    return pairs


def fold_batch_norm(model: nn.Module, example_inputs: Any = None) -> nn.Module:
    """A copy of a model with batch normalizations folded into the layers before them.

    The norms of `conv_norm_pairs` become `torch.nn.Identity`; the layers get the weight and bias of
    `folded_weight_bias`. The copy is in evaluation mode, whatever the model is in: in training mode a
    batch normalization uses the statistics of the batch, which no fixed weight can. It can be trained on
    after that, without normalization. The model itself is left as it is.

    Args:
        model: any module.
        example_inputs: see `conv_norm_pairs`, which finds more with them.

    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2. Departs from it: no.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    >>> fold_batch_norm(model)
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): ReLU()
    )
    """
    folded = copied(model).eval()
    for layer_name, norm_name in conv_norm_pairs(model, example_inputs):
        layer: Any = folded.get_submodule(layer_name)
        norm: Any = folded.get_submodule(norm_name)
        weight, bias = folded_weight_bias(layer, norm)
        replace_weight(layer, weight, bias)
        folded.set_submodule(norm_name, nn.Identity().eval())
    return folded


def _is_pair(flow: DataFlow, layer: Step, norm: Step) -> bool:
    if not (flow.is_plain(layer.name) and flow.is_plain(norm.name)):
        return False
    if len(flow.consumers(layer.outputs[0])) != 1:
        return False
    modules = flow.model.get_submodule(layer.name), flow.model.get_submodule(norm.name)
    dimensions = None if layer.shape is None else len(layer.shape)
    return _fits(*modules, dimensions=dimensions)


def _fits(layer: nn.Module, norm: Any, *, dimensions: int | None = None) -> bool:
    """Whether one can be folded into the other, if the layer's output has so many dimensions."""
    wanted = [d for d in _LAYERS if dimensions is None or d == dimensions]
    if not any(runs_as(layer, *_LAYERS[d]) and runs_as(norm, *_NORMS[d]) for d in wanted):
        return False
    return (
        is_channel_layer(layer)
        and not any(norm.children())
        and norm.running_mean is not None
        and norm.num_features == out_channels(layer)
    )


def _neighbours(model: nn.Module) -> list[tuple[str, str]]:
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    pairs = []
    for parent in model.modules():
        if isinstance(parent, nn.Sequential) and runs_as(parent, nn.Sequential):
            for layer, norm in pairwise(parent):
                alone = len(names[id(layer)]) == len(names[id(norm)]) == 1
                if alone and not (is_hooked(layer) or is_hooked(norm)) and _fits(layer, norm):
                    pairs.append((names[id(layer)][0], names[id(norm)][0]))
    return pairs

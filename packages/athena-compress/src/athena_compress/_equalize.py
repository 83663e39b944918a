"""Cross-layer equalization: channels of two layers in a row, rescaled so that their ranges agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from athena_compress._channels import (
    CONVOLUTIONS,
    ChannelLayer,
    in_channels,
    input_ranges,
    is_channel_layer,
    out_channels,
    output_ranges,
    replace_weight,
    runs_as,
    scale_inputs,
    scale_outputs,
)
from athena_compress._copied import copied
from athena_compress._data_flow import DataFlow, Step, data_flow

# f(s x) = s f(x) for s > 0, element by element
_HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
# the same, channel by channel, over one axis after it or over two
_POOLS = {
    1: (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
    2: (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
}
_FUNCTIONS = ("relu", "relu_", "leaky_relu", "leaky_relu_", "clone", "alias", "detach")
_POOL_FUNCTIONS = ("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "mean")
_DEAD = 1e-30  # smaller ranges would make factors that float32 does not hold
_CLOSE = 1e-4  # of a scale to 1, from where on another sweep changes nothing that matters


def equalizing_scale(first_range: Tensor, second_range: Tensor) -> Tensor:
    r"""By what the outputs of one layer are divided, and the inputs of the next multiplied.

    .. math:: s_i = \frac{1}{r_i^{(2)}} \sqrt{r_i^{(1)} r_i^{(2)}}, \qquad
              \frac{r_i^{(1)}}{s_i} = s_i\, r_i^{(2)} = \sqrt{r_i^{(1)} r_i^{(2)}}

    1 where a range is at most 1e-30: such a channel does nothing.

    Shape: ``(channels,), (channels,) -> (channels,)``.
    Source: Nagel et al. 2019, arXiv:1906.04721, equation 11. Departs from it: for ranges of 0 and next
    to it, where the factor would not be finite.

    >>> equalizing_scale(torch.tensor([8.0, 0.0]), torch.tensor([2.0, 1.0]))
    tensor([2., 1.])
    """
    scale = first_range.sqrt() / second_range.sqrt()
    return torch.where((first_range > _DEAD) & (second_range > _DEAD), scale, 1.0)


def equalizable_pairs(model: nn.Module, example_inputs: Any = None) -> list[tuple[str, str]]:
    """Names of layers, each with the one that alone takes its output, whose channels can be rescaled.

    Between the two may stand what commutes with a positive factor for each channel: ReLU, LeakyReLU, PReLU,
    dropout, pooling, flattening, a product with something else; not GELU, SiLU, ReLU6, a norm or a sum.
    Fold batch norms first, with `fold_batch_norm`.

    Args:
        model: any module. It is neither changed nor run; a copy in evaluation mode is.
        example_inputs: a tensor, a tuple of positional arguments, or a mapping of named ones, on which the
            model is run and watched. Without them torch.fx traces it, and modules and ReLU alone may
            stand between; if it cannot, there are no pairs.

    >>> equalizable_pairs(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.GELU()))
    [('0', '2')]
    """
    flow = data_flow(model, example_inputs)
    if flow is None:
        return []
    pairs = []
    for step in flow.steps:
        if step.name and is_channel_layer(flow.model.get_submodule(step.name)) and flow.is_plain(step.name):
            second = _next_layer(flow, step)
            if second is not None:
                pairs.append((step.name, second))
    return pairs


def equalize(
    model: nn.Module,
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    example_inputs: Any = None,
    sweeps: int = 20,
) -> nn.Module:
    """A copy of a model that computes the same, with weights of similar ranges over channels.

    Where some channels have weights a hundred times as large as others, one scale for all rounds the small
    ones to nothing. Dividing a layer's output channels by the factors of `equalizing_scale`, and the next
    one's input channels multiplying, makes both ranges equal. Pairs are visited in turn until no factor
    differs from 1 by more than 1e-4.

    Args:
        model: any module; left as it is.
        pairs: names of layers, the first's output going to the second through what commutes with positive
            factors, which is not tested; None finds them with `equalizable_pairs`.
        example_inputs: see `equalizable_pairs`.
        sweeps: at most so many visits of each pair.

    Raises ValueError if no pair is found, for names of other layers, channels that do not fit, fewer sweeps
    than 1, and weights that are NaN or infinite.
    Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1 and equation 11. Departs from it: ReLU6 is not
    replaced by ReLU, which changes what is computed, and high biases are not absorbed.

    >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[8.0], [0.5]]))
    >>> _ = model[2].weight.data.copy_(torch.tensor([[2.0, 0.5]]))
    >>> equalize(model)[0].weight.flatten().tolist()
    [4.0, 0.5]
    """
    if sweeps < 1:
        raise ValueError(f"`sweeps` must be at least 1; got {sweeps}. Leave it out for 20.")
    pairs = equalizable_pairs(model, example_inputs) if pairs is None else pairs
    if not pairs:
        raise ValueError(
            "`model` must have two layers in a row with ReLU, pooling or nothing between; found none. Fold "
            "batch norms first, pass `example_inputs`, or for transformers use `smooth`."
        )
    equal = copied(model)
    layers = [(_layer(equal, first), _layer(equal, second)) for first, second in pairs]
    for names, (first, second) in zip(pairs, layers, strict=True):
        if in_channels(second) % max(out_channels(first), 1):
            raise ValueError(
                f"`pairs`: {names[1]!r} must take the {out_channels(first)} channels of {names[0]!r}; got "
                f"{in_channels(second)}. Name the layer that follows it."
            )
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        layer = _layer(equal, name)
        if not layer.weight.isfinite().all():
            raise ValueError(f"{name}: the weight must be finite; got NaN or infinity. Train the model anew.")
        replace_weight(layer, layer.weight.detach().clone(), _copied(layer.bias))
    for _ in range(sweeps):
        changes = [_equalize_pair(first, second) for first, second in layers]
        if max(changes) < _CLOSE:
            break
    return equal


@torch.no_grad()
def _equalize_pair(first: ChannelLayer, second: ChannelLayer) -> float:
    """Rescale both; returns how far the furthest factor is from 1."""
    channels = out_channels(first)
    if channels == 0:
        return 0.0
    dtype = torch.promote_types(first.weight.dtype, torch.float32)
    taken = input_ranges(second, second.weight).reshape(channels, -1)  # several of a flattened channel
    ranges = output_ranges(first, first.weight).to(dtype), taken.amax(dim=1).to(dtype)
    scale = equalizing_scale(*ranges)
    scale_outputs(first, first.weight, 1 / scale)
    if first.bias is not None:
        first.bias.div_(scale)
    scale_inputs(second, second.weight, scale.repeat_interleave(taken.shape[1]))
    return float((scale - 1).abs().max())


def _next_layer(flow: DataFlow, step: Step) -> str | None:
    """The layer that alone takes a layer's output, through what commutes with factors of its channels."""
    first = flow.model.get_submodule(step.name)
    assert is_channel_layer(first)
    channels, flattened = max(out_channels(first), 1), False
    while len(step.outputs) >= 1 and len(flow.consumers(step.outputs[0])) == 1:
        previous, step = step, flow.consumers(step.outputs[0])[0]
        module = flow.model.get_submodule(step.name) if step.name else None
        if module is not None and is_channel_layer(module):
            spatial = isinstance(first, CONVOLUTIONS) and not flattened
            fits = isinstance(module, CONVOLUTIONS) == spatial
            wanted = in_channels(module) % channels if flattened else in_channels(module) - channels
            return step.name if fits and wanted == 0 and flow.is_plain(step.name) else None
        if _flattens(step, module, previous, channels):
            flattened = isinstance(first, CONVOLUTIONS)
        elif not _commutes(step, module, previous, pooled=0 if flattened else first.weight.ndim - 2):
            return None
    return None


def _commutes(step: Step, module: nn.Module | None, previous: Step, *, pooled: int) -> bool:
    """Whether it lets positive factors of channels through, behind which are so many axes to pool over."""
    if module is not None:
        return runs_as(module, *_HOMOGENEOUS, *_POOLS.get(pooled, ()))
    if step.function in ("relu", "relu_"):
        return True
    if step.shape is None or previous.shape is None:  # a symbolic trace knows too little of other functions
        return False
    if step.function == "mul":
        return step.shape == previous.shape
    if pooled and step.function in _POOL_FUNCTIONS:  # a mean over the channels would have another shape
        return len(step.shape) == len(previous.shape) and step.shape[:2] == previous.shape[:2]
    return step.function in _FUNCTIONS


def _flattens(step: Step, module: nn.Module | None, previous: Step, channels: int) -> bool:
    """Whether all axes after the batch become one."""
    if module is None and step.function != "view":
        return False
    if module is not None and not (
        runs_as(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
    ):
        return False
    if step.shape is None or previous.shape is None:
        return module is not None
    batch, *others = previous.shape
    return len(step.shape) == 2 and step.shape[0] == batch and others[:1] == [channels]


def _layer(model: nn.Module, name: str) -> ChannelLayer:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        raise ValueError(f"`pairs` must name layers of the model; got {name!r}, which is none.") from None
    if not is_channel_layer(layer):
        raise ValueError(
            f"`pairs` must name Linear, Conv1d, Conv2d or ConvTranspose layers, not parametrized; "
            f"got {name!r}, a {type(layer).__name__}."
        )
    return layer


def _copied(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().clone()

"""SmoothQuant: outliers of activations, moved into the weights of the layers that take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from athena_compress._calibrate import Forward
from athena_compress._call import call, several
from athena_compress._channels import replace_weight, runs_as
from athena_compress._prepare import quantizable_copy
from athena_compress._smoothing_groups import is_norm, smoothing_groups

Groups = Mapping[str, Sequence[str]]

_DEAD = 1e-30  # smaller ranges would make factors that float32 does not hold


def smoothing_scale(activation_range: Tensor, weight_range: Tensor, alpha: float = 0.5) -> Tensor:
    r"""By what each channel of the activations is divided, and of the weights multiplied.

    .. math:: s_j = \frac{\max|X_j|^\alpha}{\max|W_j|^{1-\alpha}}

    1 where a range is at most 1e-30: such a channel does nothing.

    Args:
        alpha: how much of the difficulty goes to the weights: at 1 all of it, at 0 none.

    Shape: ``(channels,), (channels,) -> (channels,)``. Raises ValueError if ``alpha`` lies outside [0, 1].
    Source: Xiao et al. 2023, arXiv:2211.10438, equation 4. Departs from it: for ranges of 0 and next to it,
    where the factor would not be finite.

    >>> smoothing_scale(torch.tensor([16.0, 1.0]), torch.tensor([1.0, 4.0]))
    tensor([4.0000, 0.5000])
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must lie in [0, 1]; got {alpha}. 0.5 is the paper's.")
    scale = activation_range**alpha / weight_range ** (1 - alpha)
    return torch.where((activation_range > _DEAD) & (weight_range > _DEAD), scale, 1.0)


def smooth(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    alpha: float = 0.5,
    groups: Groups | None = None,
    forward: Forward | None = None,
) -> nn.Module:
    """A copy of a model that computes the same, with fewer outliers in what its linear layers take.

    A few channels of a transformer's activations are many times as large as the others, and one scale for
    all rounds the others to nothing. The norm before is divided by the factors of `smoothing_scale`, channel
    by channel, and the weights of the linear layers multiplied. Quantize the copy.

    Args:
        model: any module; left as it is.
        batches: its inputs: tensors, tuples of arguments or mappings of named ones.
        alpha: see `smoothing_scale`; larger where outliers are stronger.
        groups: names of linear layers by the name of the norm before them, whose output nothing else takes,
            which is not tested; None finds them with `smoothing_groups`.
        forward: called with the model and a batch, where batches are not the model's arguments alone.

    The copy is in evaluation mode, with `torch.nn.MultiheadAttention` split into linear layers (names in
    ``groups`` are those of `split_attention`). Raises ValueError if there are no batches, no groups are
    found, names are of other layers, ``alpha`` lies outside [0, 1], and for activations with NaN or infinity.
    Source: Xiao et al. 2023, arXiv:2211.10438, section 4 and equation 4. Departs from it: no.

    >>> model = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2))
    >>> _ = model[0].weight.data.copy_(torch.tensor([100.0, 1.0]))
    >>> smoothed, x = smooth(model, [torch.randn(64, 2)]), torch.randn(4, 2)
    >>> bool(smoothed[0].weight[0] < 20), torch.allclose(smoothed(x), model(x), atol=1e-4)
    (True, True)
    """
    iterator = iter(several(batches))
    first = next(iterator, None)
    if first is None:
        raise ValueError("`batches` must hold data; got no calibration data. Pass a list or a DataLoader.")
    smoothed = quantizable_copy(model, fold=False)
    if groups is None:
        groups = smoothing_groups(smoothed, first, forward=forward)
    if not groups:
        raise ValueError(
            "`model` must have a norm whose output linear layers alone take; found none. Norms after the sum "
            "are none; fold batch norms with `fold_batch_norm`, and use `equalize` for convolutions."
        )
    for norm, names in groups.items():
        _check(smoothed, norm, names)
    ranges = _activation_ranges(smoothed, groups, chain([first], iterator), forward or call)
    for norm, names in groups.items():
        _smooth_group(smoothed, norm, names, ranges[norm], alpha)
    return smoothed


@torch.no_grad()
def _smooth_group(
    model: nn.Module, norm: str, names: Sequence[str], activations: Tensor, alpha: float
) -> None:
    layers: list[Any] = [model.get_submodule(name) for name in names]
    weights = torch.stack([layer.weight.abs().amax(dim=0) for layer in layers]).amax(dim=0)
    dtype = torch.promote_types(weights.dtype, torch.float32)
    scale = smoothing_scale(activations.to(dtype), weights.to(dtype), alpha)
    for layer in layers:
        replace_weight(layer, (layer.weight * scale).to(layer.weight.dtype), layer.bias)
    before = model.get_submodule(norm)
    for part in ("weight", "bias"):
        old = getattr(before, part, None)
        if old is not None:
            setattr(before, part, nn.Parameter((old / scale).to(old.dtype), requires_grad=old.requires_grad))


def _activation_ranges(
    model: nn.Module, norms: Iterable[str], batches: Iterable[Any], forward: Forward
) -> dict[str, Tensor]:
    """The largest magnitude in each channel of each norm's output, over all batches."""
    ranges: dict[str, Tensor] = {}

    def observe(name: str, _: nn.Module, __: Any, output: Tensor) -> None:
        if not output.isfinite().all():
            raise ValueError(
                f"{name}: its output must be finite; got NaN or infinity. Look for the batch that holds them."
            )
        if output.numel():
            largest = output.abs().flatten(0, -2).amax(dim=0)
            ranges[name] = torch.maximum(ranges.get(name, largest), largest)

    handles = [model.get_submodule(name).register_forward_hook(partial(observe, name)) for name in norms]
    with torch.no_grad():
        for batch in batches:
            forward(model, batch)
    for handle in handles:  # of a copy, which an error leaves to no one
        handle.remove()
    if silent := [name for name in norms if name not in ranges]:
        raise ValueError(
            f"`batches` must reach each norm with at least one row; got none for {silent[0]!r}. Pass more "
            "batches, or leave it out of `groups`."
        )
    return ranges


def _check(model: nn.Module, norm: str, names: Sequence[str]) -> None:
    modules = dict(model.named_modules())
    for name in (norm, *names):
        if name not in modules:
            raise ValueError(f"`groups` must name layers of the model; got {name!r}, which is none.")
    for name in names:
        width = getattr(modules[name], "in_features", None)
        if not runs_as(modules[name], nn.Linear) or not is_norm(modules[norm], width or 0):
            raise ValueError(
                f"`groups` must name norms over the last axis, and Linear layers of that width; "
                f"got {norm!r}, a {type(modules[norm]).__name__}, and {name!r}, a "
                f"{type(modules[name]).__name__}."
            )

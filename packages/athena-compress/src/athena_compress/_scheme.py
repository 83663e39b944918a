"""What a quantization scheme is: how one layer becomes another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from athena_compress._grid import Grid, quantize_affine
from athena_compress._mirror import outputs_first
from athena_compress._named import build
from athena_compress._observer import Observer
from athena_compress._weight_only import Codes

#: What is quantized, each with the method that a subclass must have left as it is.
QUANTIZABLE: dict[type[nn.Module], str] = {
    nn.Linear: "forward",
    nn.Conv1d: "_conv_forward",
    nn.Conv2d: "_conv_forward",
    nn.ConvTranspose1d: "forward",
    nn.ConvTranspose2d: "forward",
    nn.Embedding: "forward",
}


class NotQuantizable(ValueError):  # noqa: N818  a reason, not a failure
    """Why a layer stays in float; `quantize` notes it and goes on.

    >>> from athena_compress import Int8Dynamic
    >>> try:
    ...     Int8Dynamic().quantize(nn.LSTM(2, 2))
    ... except NotQuantizable as reason:
    ...     print(reason)
    LSTM layers have no int8 body
    """


class Scheme(ABC):
    """How layers are quantized (kind ``quantization-scheme``).

    A subclass says in `quantize` what a layer becomes, or raises `NotQuantizable` with the reason.

    Args:
        per_channel: one scale for each output channel, rather than one for the whole weight.
        weight_observer: what chooses the range of a weight, a name of kind ``observer``.

    >>> from athena_compress import Int8Dynamic
    >>> Int8Dynamic(per_channel=False).quantize(nn.Linear(3, 2))
    Int8Linear(3, 2, bias=True, dynamic)
    """

    #: Whether `quantize` needs an observer that has seen the layer's inputs.
    needs_inputs: ClassVar[bool] = False

    def __init__(self, *, per_channel: bool = True, weight_observer: str = "min-max") -> None:
        self.per_channel, self.weight_observer = per_channel, weight_observer

    @abstractmethod
    def quantize(self, layer: nn.Module, inputs: Observer | None = None) -> nn.Module:
        """The layer that takes the place of ``layer``; ``inputs`` has observed what goes into it.

        Raises NotQuantizable.
        """

    def coded(self, layer: nn.Module, grid: Grid) -> Codes:
        """The weight of a layer, output channels first, as integers; a scale a channel or group."""
        weight = outputs_first(layer)
        if not weight.isfinite().all():
            raise NotQuantizable("its weights are not finite")
        if grid.group_size is not None:
            return self._coded_in_groups(weight, grid)
        grid = replace(grid, axis=0 if self.per_channel else None)
        observer = build("observer", self.weight_observer, axis=grid.axis)
        observer(weight)
        scale, zero_point = observer.qparams(grid)
        codes = quantize_affine(weight, scale, zero_point, grid)
        shared = 1 if self.per_channel else weight.shape[0]
        return Codes(codes, scale.repeat(shared), zero_point.repeat(shared))

    def _coded_in_groups(self, weight: Tensor, grid: Grid) -> Codes:
        weight = weight.flatten(1)  # a convolution's groups are of all its inputs and places
        if weight.shape[-1] % (grid.group_size or 1):
            raise NotQuantizable(
                f"`group_size` = {grid.group_size} does not divide its {weight.shape[-1]} inputs"
            )
        groups = grid.grouped(weight)
        observer = build("observer", self.weight_observer, axis=0)
        observer(groups.flatten(0, -2))
        scale, zero_point = observer.qparams(replace(grid, group_size=None, axis=0))
        scale, zero_point = scale.view(groups.shape[:-1]), zero_point.view(groups.shape[:-1])
        return Codes(quantize_affine(weight, scale, zero_point, grid), scale, zero_point)


def refuse_unknown(layer: nn.Module) -> None:
    """Raises NotQuantizable for a layer that is none of torch's, or computes in a way of its own.

    A subclass with a method of its own says by ``computes_as = nn.Linear``, not inherited, that it computes
    what its parent does.

    >>> refuse_unknown(nn.Linear(1, 1))
    """
    for known, method in QUANTIZABLE.items():
        if isinstance(layer, known):
            own = getattr(type(layer), method) is not getattr(known, method)
            if own and vars(type(layer)).get("computes_as") is not known:
                raise NotQuantizable(f"{type(layer).__name__} has a `{method}` of its own")
            break
    else:
        raise NotQuantizable(f"{type(layer).__name__} layers have no int8 body")
    if torch.nn.utils.parametrize.is_parametrized(layer):
        raise NotQuantizable("it is parametrized; `torch.nn.utils.parametrize.remove_parametrizations` first")
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise NotQuantizable("it has hooks, or a weight that one computes; remove them first")
    if layer.weight.numel() == 0:  # pyright: ignore[reportCallIssue]
        raise NotQuantizable("it has no weights")

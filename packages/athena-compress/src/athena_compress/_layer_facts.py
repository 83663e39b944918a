"""What a layer holds: parameters, bytes, zeros, and in which numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from athena_compress._int8_layer import Int8Layer
from athena_compress._quantize import holds_matrix
from athena_compress._scheme import NotQuantizable, refuse_unknown
from athena_compress._weight_only import CodedWeight


@dataclass(frozen=True)
class LayerFacts:
    """What a layer holds itself; what it shares with one before it counts there.

    >>> LayerFacts("Linear", parameters=6, n_bytes=24, weights=4, zeros=1).sparsity
    0.25
    """

    kind: str
    parameters: int
    n_bytes: int  # of parameters and of the buffers that are saved with them
    weights: int = 0  # elements of parameters of two axes or more
    zeros: int = 0  # of those
    held_as: str = ""
    note: str = ""

    @property
    def sparsity(self) -> float | None:
        """The share of zeros among the weights."""
        return self.zeros / self.weights if self.weights else None


def facts(model: nn.Module) -> dict[str, LayerFacts]:
    """By name, the facts of each module that holds parameters or saved buffers of its own."""
    any_quantized = any(_is_quantized(module) for module in model.modules())
    owner: dict[int, str] = {}
    found = {}
    for name, module in model.named_modules():
        held = _held(module)
        if not held:
            continue
        new = [tensor for tensor in held if owner.setdefault(id(tensor), name) == name]
        shared = [owner[id(tensor)] for tensor in held if owner[id(tensor)] != name]
        note = f"shares with {shared[0] or 'the model'}" if shared else ""
        if not note and any_quantized and holds_matrix(module) and not _is_quantized(module):
            note = f"kept in float: {_reason(module)}"
        found[name] = _facts(module, new, note)
    return found


def summed(layers: Iterable[LayerFacts]) -> LayerFacts:
    """The facts of several layers together."""
    every = list(layers)
    return LayerFacts(
        "",
        parameters=sum(one.parameters for one in every),
        n_bytes=sum(one.n_bytes for one in every),
        weights=sum(one.weights for one in every),
        zeros=sum(one.zeros for one in every),
    )


def _facts(module: nn.Module, held: list[Tensor], note: str) -> LayerFacts:
    if isinstance(module, Int8Layer | CodedWeight):
        own = any(tensor is module.weight_q for tensor in held)
        weights = [module.weight.detach()] if own else []
        bias = getattr(module, "bias", None)
        parameters = sum(weight.numel() for weight in weights) + (0 if bias is None else bias.numel())
    else:
        own_parameters = {id(parameter) for parameter in module.parameters(recurse=False)}
        counted = [tensor for tensor in held if id(tensor) in own_parameters]
        weights = [tensor for tensor in counted if tensor.ndim >= 2 and holds_matrix(module)]
        parameters = sum(tensor.numel() for tensor in counted)
    return LayerFacts(
        type(module).__name__,
        parameters=parameters,
        n_bytes=sum(tensor.numel() * tensor.element_size() for tensor in held),
        weights=sum(weight.numel() for weight in weights),
        zeros=sum(weight.numel() - int(weight.count_nonzero()) for weight in weights),
        held_as=_held_as(module),
        note=note,
    )


def _held(module: nn.Module) -> list[Tensor]:
    saved = [
        buffer
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    ]
    return [*module.parameters(recurse=False), *saved]


def _held_as(module: nn.Module) -> str:
    if isinstance(module, Int8Layer):
        return "int8, static" if module.is_static else "int8, dynamic"
    if isinstance(module, CodedWeight):
        return f"int{module.grid.bits}, weights"
    first = next(iter(_held(module)))
    return str(first.dtype).removeprefix("torch.")


def _is_quantized(module: nn.Module) -> bool:
    return isinstance(module, Int8Layer | CodedWeight)


def _reason(module: nn.Module) -> str:
    try:
        refuse_unknown(module)
    except NotQuantizable as reason:
        return str(reason)
    return "not chosen"

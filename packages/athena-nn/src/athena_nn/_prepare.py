"""Models laid out for decoding."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from athena_nn._decoding_linear import BFloat16Linear, DecodingLinear, Int8Linear, TransposedLinear

_Model = TypeVar("_Model", bound=nn.Module)


def prepare_for_decoding(model: _Model, *, dtype: torch.dtype | None = None) -> _Model:
    """A copy of ``model`` that decodes faster: each `nn.Linear` stored for few rows at a time.

    Decoding multiplies one row or a few by every weight, so that its time is that of reading them.

    Args:
        model: any module; it stays as it is, and can be trained on and prepared again.
        dtype: of the linear layers' weights. None keeps theirs, `TransposedLinear` (bfloat16 weights:
            `BFloat16Linear`); `torch.bfloat16` halves and `torch.int8` quarters those of float32
            (`BFloat16Linear`, `Int8Linear`, which round; the quantization error's bound stands there).

    Returns a model of the same class in eval mode, frozen: its parameters want no gradient and its linear
    weights are buffers, which ``reset_parameters`` refuses to draw. Its state dict holds plain tensors
    and loads into a model prepared alike. It shares no memory with ``model``: the linear weights take
    ``bytes of dtype * in * out``, all other parameters and buffers are copied, and a head tied to the
    embedding gets a weight of its own, laid out, beside the embedding's. Layers used in several places
    stay one.

    Subclasses of `nn.Linear` (parametrized ones too), those with hooks and empty ones are copied as they
    are. Timed on CPUs only; elsewhere the layers compute the same by general products.

    Raises ValueError for another ``dtype``, a model without a linear layer to prepare, one prepared
    before, and for int8 if a weight is not finite.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> prepare_for_decoding(model)(torch.zeros(1, 4)).shape
    torch.Size([1, 2])
    """
    if dtype not in (None, torch.bfloat16, torch.int8):
        raise ValueError(f"`dtype` must be None, torch.bfloat16 or torch.int8; got {dtype}.")
    if any(isinstance(module, DecodingLinear) for module in model.modules()):
        raise ValueError("`model` must not be prepared yet; got one that is. Prepare the model it came from.")
    layers = {name: module for name, module in model.named_modules() if _is_plain(module)}
    if not layers:
        raise ValueError(
            f"`model` must hold an nn.Linear without hooks; got {type(model).__name__} with none."
        )
    # What the memo holds, deepcopy takes for copied: it puts the new layer wherever the old one is found.
    prepared = copy.deepcopy(
        model, {id(linear): _layer(name, linear, dtype) for name, linear in layers.items()}
    )
    return prepared.requires_grad_(False).eval()


def _is_plain(module: nn.Module) -> bool:
    hooked = (
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
    return type(module) is nn.Linear and module.weight.numel() > 0 and not hooked


def _layer(name: str, linear: nn.Module, dtype: torch.dtype | None) -> DecodingLinear:
    assert isinstance(linear, nn.Linear)
    if dtype == torch.int8:
        try:
            return Int8Linear(linear)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if torch.bfloat16 in (dtype, linear.weight.dtype):
        return BFloat16Linear(linear)
    return TransposedLinear(linear)

"""A copy of a model to work on, or one clear line why there is none."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of a model.

    Raises ValueError, naming the layer and the remedy, for what is no module, for what TorchScript or
    `torch.compile` made, whose copy would run the old code, for a lazy layer that was never run, and for a
    tensor that hooks of `torch.nn.utils.weight_norm` or of `torch.nn.utils.prune` compute.

    >>> copied(nn.Linear(2, 3))
    Linear(in_features=2, out_features=3, bias=True)
    """
    check_copyable(model)
    return copy.deepcopy(model)


def check_copyable(model: nn.Module) -> None:
    """Raises ValueError for a model of which `copied` makes no copy.

    >>> check_copyable(nn.Linear(2, 3))
    """
    check_sizes(model)
    for name, module in model.named_modules():
        shown = f"`model`: `{name}`" if name else "`model`"
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{shown} must not be TorchScript, whose layers are fixed. Pass the eager model."
            )
        if "_orig_mod" in module._modules:
            raise ValueError(
                f"{shown} must not be what torch.compile returned; got {type(module).__name__}. Pass its "
                "`_orig_mod`, and compile the result."
            )
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                raise ValueError(
                    f"{shown} must hold no computed tensors; got `{key}`, with a gradient's history. Call "
                    "the model once under torch.no_grad(), or make it permanent: torch.nn.utils.prune.remove."
                )


def check_sizes(model: nn.Module) -> None:
    """Raises ValueError for what is no module, and for a lazy layer that was never run.

    >>> check_sizes(nn.Linear(2, 3))
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"`model` must be a torch.nn.Module; got {model!r:.60}. Pass the model itself.")
    for name, module in model.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if any(is_lazy(one) for one in own):
            shown = f"`model`: `{name}`" if name else "`model`"
            raise ValueError(
                f"{shown} must know its sizes; got {type(module).__name__}, which has not run yet. Call the "
                "model once."
            )

"""Modules with new weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from torch import nn


def fresh_copy(module: nn.Module) -> nn.Module:
    """A copy whose weights are drawn anew, all trained and in the module's mode.

    Raises ValueError for a module that holds parameters and has no ``reset_parameters``.

    >>> import torch
    >>> layer = nn.Linear(3, 2)
    >>> torch.equal(fresh_copy(layer).weight, layer.weight)
    False
    """
    check_fresh(module)
    copied = copy.deepcopy(module)
    for part in copied.modules():
        reset = _reset(part)
        if reset is not None:
            reset()
    for parameter in copied.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    return copied


def check_fresh(module: nn.Module) -> None:
    """Raises ValueError for a module that cannot be drawn anew.

    >>> check_fresh(nn.Linear(3, 2))
    """
    for name, part in module.named_modules():
        if _reset(part) is None and any(True for _ in part.parameters(recurse=False)):
            where = f"`{name}`, " if name else ""
            raise ValueError(
                f"each module with parameters must have `reset_parameters` to be drawn anew; got {where}a "
                f"{type(part).__name__}, without. Write one, or give a function that makes the module."
            )


def named_parts(module: nn.Module, names: Sequence[str], argument: str) -> list[nn.Module]:
    """Submodules by their names.

    Raises ValueError for an unknown name.

    >>> named_parts(nn.Sequential(nn.ReLU()), ["0"], "trained")
    [ReLU()]
    """
    known = dict(module.named_modules())
    for name in names:
        if name not in known or not name:
            raise ValueError(
                f"`{argument}` must be names of submodules; got {name!r}. "
                f"The first: {', '.join(list(known)[1:9]) or 'none'}."
            )
    return [known[name] for name in names]


def _reset(module: nn.Module) -> Callable[[], object] | None:
    # torch's attention and transformers have it as a private method
    reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
    return reset if callable(reset) else None

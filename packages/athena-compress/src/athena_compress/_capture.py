"""Outputs of modules inside a model, caught while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def captured(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """A context in which a run of the model leaves the outputs of the modules of these names.

    Of a tuple or list, the first element; of a module that runs several times, the last output. Hooks are
    there inside the context alone, where compiled code is not used: it would not call them, or would be
    compiled again with them, and would not be one graph.
    """
    outputs: dict[str, Tensor] = {}
    handles = [
        find_module(model, name).register_forward_hook(partial(_keep, outputs, name)) for name in names
    ]
    if not handles:
        yield outputs
        return
    try:
        with torch.compiler.set_stance("force_eager"):
            yield outputs
    finally:
        for handle in handles:
            handle.remove()


def find_module(model: nn.Module, name: str) -> nn.Module:
    """The module of this name, of a compiled model too; ValueError, with the nearest name, if none has it."""
    modules = dict(uncompiled(model).named_modules(remove_duplicate=False))
    if name not in modules:
        close = get_close_matches(name, modules, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Its modules: {', '.join(filter(None, modules))}."
        raise ValueError(f"`features` must name modules of the {type(model).__name__}; got {name!r}. {hint}")
    return modules[name]


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` wraps; any other one itself."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def taken(outputs: Mapping[str, Tensor], name: str, whose: str) -> Tensor:
    """The output of this name; RuntimeError if the module did not run."""
    if name not in outputs:
        raise RuntimeError(
            f"`features`: the {whose}'s module {name!r} must run when the {whose} does, and did not run. "
            "Match a module that its forward calls."
        )
    return outputs[name]


def logits_of(output: Any) -> Tensor:
    """A model's logits: its output; the attribute or key ``logits`` of that; or its first element."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        return logits_of(output["logits"])
    logits = getattr(output, "logits", output)
    if logits is not output:
        return logits_of(logits)
    if isinstance(output, tuple | list) and output:
        return logits_of(output[0])
    raise TypeError(
        "a model's output must be a tensor, hold one under `logits`, or have one as its first element; got "
        f"{type(output).__name__}. Wrap the model in a module that returns its logits."
    )


def _keep(outputs: dict[str, Tensor], name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
    first = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(first, Tensor):
        raise TypeError(
            f"`features`: the module {name!r} must return a tensor, or a tuple of which one is the first; "
            f"got {type(output).__name__}. Match a module inside of it."
        )
    outputs[name] = first

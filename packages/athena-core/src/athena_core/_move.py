"""Carrying out a plan: casts, moves, splits, and routes between devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.weak import WeakIdKeyDictionary

from athena_core._device import backend
from athena_core._placement import Placed, PlacementError, describe, size_text
from athena_core._split import split_rows

SPLIT = WeakIdKeyDictionary()  # weights that gave way to pieces: an optimizer may still hold one
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_INNERMOST = {4: torch.channels_last, 5: torch.channels_last_3d}

Copies = dict[int, Tensor | list[nn.Parameter]]


def execute(obj: Any, planned: Sequence[tuple[Tensor, Placed]], *, channels_last: bool | None) -> Any:
    """``obj`` with each tensor as planned. All are copied first, so that what fails changes nothing."""
    leaves: list[Any] = []
    rebuild(leaves.append, obj)
    modules = list(dict.fromkeys(m for leaf in leaves if isinstance(leaf, nn.Module) for m in leaf.modules()))
    owned = {id(t) for m in modules for t in (*m.parameters(recurse=False), *m.buffers(recurse=False))}
    layouts = _layouts(modules, planned, channels_last)
    copies = _copies(planned, owned, layouts)

    def become(tensor: Any) -> Any:
        copy = copies.get(id(tensor), tensor)
        return tensor if isinstance(copy, list) else copy

    renewed: dict[int, nn.Parameter | None] = {}  # by torch, where a device's data cannot go into the old one
    for module in modules:
        before = dict(module._parameters)
        module._apply(become, recurse=False)
        for name, old in before.items():
            same = renewed.setdefault(id(old), module._parameters[name])
            if same is not module._parameters[name]:  # tied
                setattr(module, name, same)
        for hooks, key in routes(module):
            del hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)
    replaced = _replace(modules, copies)
    several = len({placed.device for _, placed in planned}) > 1

    def final(leaf: Any) -> Any:
        if not isinstance(leaf, nn.Module):
            return leaf if isinstance(leaf, nn.Parameter) and id(leaf) in owned else become(leaf)
        whole = replaced.get(leaf, leaf)
        if several:
            _route(whole, above=True, parent=None)
        return whole

    return rebuild(final, obj)


def _copies(
    planned: Sequence[tuple[Tensor, Placed]], owned: set[int], layouts: Mapping[int, torch.memory_format]
) -> Copies:
    """What each tensor becomes, by identity: a tensor or pieces; gradients of modules' parameters too.

    Of a lone tensor the copy is differentiable, as that of `Tensor.to` is.
    """
    copies: Copies = {}
    fitted: dict[str, int] = {}
    failed: Placed | None = None
    for tensor, placed in planned:
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled() and id(tensor) not in owned):
                made = _copy(tensor, placed, id(tensor) in owned, layouts.get(id(tensor)))
        except torch.OutOfMemoryError:
            failed = placed
            break
        copies.update(made)
        size = placed.tensor.bytes(placed.dtype) * len(made)  # a gradient is as large
        fitted[placed.device] = fitted.get(placed.device, 0) + size
    if failed is not None:  # raised out here, as the error's frames hold copies
        copies.clear()
        made = {}
        raise out_of_memory(
            describe(failed.tensor), torch.device(failed.device), fitted.get(failed.device, 0)
        )
    return copies


def _copy(tensor: Tensor, placed: Placed, owned: bool, layout: torch.memory_format | None) -> Copies:
    """One tensor's copy and its gradient's, by identity; the tensor itself where nothing changes."""
    target = torch.device(placed.device)
    grad = tensor.grad if owned and tensor.is_leaf else None

    def move(one: Tensor) -> Tensor:
        one = one if layout is None else one.contiguous(memory_format=layout)
        return backend(target).move(one, placed.dtype, target.index)

    if not placed.pieces:
        return {id(one): move(one) for one in (tensor, grad) if one is not None}
    pieces = [nn.Parameter(_alone(move(rows)), tensor.requires_grad) for rows in tensor.split(placed.pieces)]
    if grad is not None:
        for piece, rows in zip(pieces, grad.split(placed.pieces), strict=True):
            piece.grad = _alone(move(rows))
    return {id(tensor): pieces}


def _alone(rows: Tensor) -> Tensor:
    """``rows`` in an allocation of their own, where they are still a part of the whole."""
    return rows.clone() if rows.untyped_storage().nbytes() > rows.nbytes else rows


def _layouts(
    modules: Sequence[nn.Module], planned: Sequence[tuple[Tensor, Placed]], channels_last: bool | None
) -> dict[int, torch.memory_format]:
    """The memory format of each convolution's weight that shall have a certain one, by identity."""
    weights = {
        id(module._parameters.get("weight")) for module in modules if isinstance(module, _CONVOLUTIONS)
    }
    layouts = {}
    for tensor, placed in planned:
        if id(tensor) not in weights:
            continue
        target = torch.device(placed.device)
        gains = backend(target).caps(target.index or 0).channels_last
        if channels_last or (channels_last is None and gains):
            layouts[id(tensor)] = _INNERMOST[tensor.ndim]
        elif channels_last is False:
            layouts[id(tensor)] = torch.contiguous_format
    return layouts


def _replace(modules: Sequence[nn.Module], copies: Copies) -> dict[nn.Module, nn.Module]:
    """Put split modules where their weights are in pieces now."""
    replaced: dict[nn.Module, nn.Module] = {}
    for module in modules:
        pieces = copies.get(id(module._parameters.get("weight")))
        if isinstance(pieces, list):
            SPLIT[module._parameters["weight"]] = None
            replaced[module] = split_rows(module, pieces)
    for module in modules if replaced else ():
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = replaced.get(child, child)
    return replaced


def out_of_memory(what: str, target: torch.device, fitted: int) -> PlacementError:
    """The refusal once a device is full all the same; what was copied must have been let go."""
    own = backend(target)
    own.empty_cache()
    memory = own.memory(target.index or 0)
    free = "" if memory is None else f" {size_text(memory[0])} is free there now, of {size_text(memory[1])}."
    return PlacementError(
        f"{what}: {target} ran out of memory while it was moved; {size_text(fitted)} had fitted before it."
        f"{free} Nothing was moved. Free memory there, give more devices, or the CPU as the last, or a"
        " smaller dtype."
    )


def _route(module: nn.Module, above: bool, parent: nn.Module | None) -> None:
    """Have layers take their inputs to where they are; inside a torn layer, also bring outputs back.

    Where that is, the hooks ask when they run: a model may since have been copied, or moved by other means.
    """
    home, outer = _home(module), None if parent is None else _home(parent)
    if not above and home is not None and home != outer:
        module.register_forward_pre_hook(_bring_inputs, with_kwargs=True)
        if parent is not None:
            module.register_forward_hook(partial(_bring_output, parent))
    for child in module.children():
        _route(child, above and is_above(module, child), None if above else module)


def _home(module: nn.Module) -> torch.device | None:
    """Where a module's first tensor is."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return None if first is None else first.device


def routes(module: nn.Module) -> list[tuple[dict[int, Any], int]]:
    """The hooks of an earlier placement, which a copy of a module has too: where each is, and its key."""
    return [
        (hooks, key)
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
        for key, hook in hooks.items()
        if getattr(hook, "func", hook) in (_bring_inputs, _bring_output)
    ]


def is_above(parent: Any, child: Any) -> bool:
    """Whether ``child`` holds layers, rather than being one."""
    if not isinstance(parent, nn.Module) or isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return True
    inside = [] if isinstance(parent, nn.Sequential | nn.ModuleList) else child.named_children()
    return any(
        isinstance(grandchild, nn.ModuleList | nn.ModuleDict)
        for name, grandchild in inside
        if name != "parametrizations"  # torch's own: they make the weight that stands beside the bias
    )


def _bring_inputs(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    home = _home(module)
    return _to(args, home), _to(kwargs, home)


def _bring_output(parent: nn.Module, module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG001
    return _to(output, _home(parent))


def _to(obj: Any, target: torch.device | None) -> Any:
    return rebuild(lambda leaf: leaf.to(target) if isinstance(leaf, Tensor) else leaf, obj)


def rebuild(change: Callable[[Any], Any], obj: Any) -> Any:
    """``obj`` with every leaf changed; mappings become dicts, and named tuples stay what they are."""
    if isinstance(obj, Mapping):
        return {key: rebuild(change, value) for key, value in obj.items()}
    if isinstance(obj, list):
        return [rebuild(change, value) for value in obj]
    if isinstance(obj, PackedSequence):  # whose batch sizes stay on the host
        parts = {key: value for key, value in obj._asdict().items() if key != "batch_sizes"}
        return obj._replace(**rebuild(change, parts))
    if isinstance(obj, tuple):
        values = [rebuild(change, value) for value in obj]
        return type(obj)(*values) if hasattr(obj, "_fields") else tuple(values)
    return change(obj)

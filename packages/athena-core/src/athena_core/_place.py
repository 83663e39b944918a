"""Placing: a model's sizes for the planner, then casts, moves, and routes between devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from athena_core._device import backend, device
from athena_core._errors import AthenaError
from athena_core._placement import DeviceRoom, TensorSize, plan, storable

_ROUTES: WeakKeyDictionary[nn.Module, list[RemovableHandle]] = WeakKeyDictionary()


def place(
    obj: Any,
    devices: str | torch.device | Sequence[str | torch.device] = "auto",
    *,
    training: bool = True,
    optimizer_bytes: int = 8,
    rows: int = 0,
    cast: bool = True,
) -> Any:
    """Plan where every tensor of ``obj`` goes, then move it there; the options are `plan`'s.

    A module is changed in place and its parameters keep their identity, as with ``Module.to``. Over
    several devices each layer moves its inputs to itself, and the output stays where the last layer
    is. An optimizer's state follows its parameters. Tensors, arrays and modules in mappings, lists and
    tuples are placed together; anything else is returned as it is.

    Raises PlacementError before anything is moved, AthenaError for a device that is not here.

    >>> import torch
    >>> model = place(torch.nn.Linear(3, 2), "cpu", rows=16)
    >>> place({"x": torch.ones(3), "epoch": 1}, model.weight.device)
    {'x': tensor([1., 1., 1.]), 'epoch': 1}
    """
    chosen = [device(d) for d in ([devices] if isinstance(devices, str | torch.device) else devices)]
    if isinstance(obj, torch.optim.Optimizer):
        return _follow(obj, chosen)
    obj = _rebuild(lambda leaf: torch.as_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf, obj)
    found = _sizes(obj)
    planned = plan(
        [size for _, size in found],
        rooms(chosen, [tensor for tensor, _ in found]),
        training=training,
        optimizer_bytes=optimizer_bytes,
        rows=rows,
        cast=cast,
    )
    there = {placed.tensor.name: (torch.device(placed.device), placed.dtype) for placed in planned.tensors}
    return _execute(obj, {id(tensor): there[size.name] for tensor, size in found}, chosen[0])


def tensor_sizes(obj: Any) -> list[TensorSize]:
    """What `plan` needs to know of a module, or of tensors and modules in a mapping, list or tuple.

    A layer is a child of the root or an entry of a ``Sequential``, ``ModuleList`` or ``ModuleDict``;
    a child that is such a container, or holds a list or dict of modules, is entered for its layers.
    A tied tensor counts once, where it comes first, and what is beside it elsewhere goes with it.

    >>> import torch
    >>> [(size.name, size.layer) for size in tensor_sizes(torch.nn.Sequential(torch.nn.Linear(2, 3)))]
    [('0.weight', '0'), ('0.bias', '0')]
    """
    return [size for _, size in _sizes(obj)]


def rooms(devices: Sequence[torch.device], present: Sequence[Tensor] = ()) -> list[DeviceRoom]:
    """What each device has room for now; the ``present`` tensors that lie there count as free."""
    found = []
    for one in devices:
        own, index = backend(one), one.index or 0
        caps, memory = own.caps(index), own.memory(index)
        free = caps.total if memory is None else memory[0]
        if free is not None:
            grads = (tensor.grad for tensor in present if tensor.is_leaf and tensor.grad is not None)
            free += sum(t.nbytes for t in (*present, *grads) if t.device == one)
        found.append(DeviceRoom(str(one), caps, free, own.activation_bytes))
    return found


def _sizes(obj: Any) -> list[tuple[Tensor, TensorSize]]:
    sizes: dict[int, tuple[Tensor, TensorSize]] = {}
    for path, layer, owner in _walk(obj):
        own = {"": owner} if isinstance(owner, Tensor) else _own(owner)
        layer = next((sizes[id(t)][1].layer for t in own.values() if id(t) in sizes), layer)
        for key, tensor in own.items():
            name, width = ".".join(filter(None, (path, key))), _width(owner, key)
            if id(tensor) in sizes:
                seen = sizes[id(tensor)][1]
                sizes[id(tensor)] = tensor, replace(seen, width=seen.width + width)
            else:
                trainable = tensor.requires_grad and tensor.is_leaf
                size = TensorSize(name, tuple(tensor.shape), tensor.dtype, layer, trainable, width)
                sizes[id(tensor)] = tensor, size
    return list(sizes.values())


def _walk(obj: Any, path: str = "", layer: str = "", above: bool = True) -> Iterator[tuple[str, str, Any]]:
    """Path, layer and owner of every module and lone tensor in ``obj``, in order.

    ``above``: no layer has been entered yet, so that each child begins its own.
    """
    if isinstance(obj, Tensor | nn.Module):
        yield path, layer, obj
    for name, child in _children(obj):
        inner = f"{path}.{name}" if path else name
        yield from _walk(child, inner, inner if above else layer, above and _is_above(obj, child))


def _children(obj: Any) -> list[tuple[str, Any]]:
    if isinstance(obj, nn.Module):
        return list(obj.named_children())
    if isinstance(obj, Mapping):
        return [(str(key), value) for key, value in obj.items()]
    return [(str(i), value) for i, value in enumerate(obj)] if isinstance(obj, list | tuple) else []


def _is_above(parent: Any, child: Any) -> bool:
    """Whether ``child`` holds layers, rather than being one."""
    if not isinstance(parent, nn.Module) or isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return True
    inside = [] if isinstance(parent, nn.Sequential | nn.ModuleList) else child.children()
    return any(isinstance(grandchild, nn.ModuleList | nn.ModuleDict) for grandchild in inside)


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


def _width(owner: Any, key: str) -> int:
    """Features of the output, for a module's matrices, or for its first vector where it has none."""
    if not isinstance(owner, nn.Module):
        return 0
    shapes = {name: tensor.shape for name, tensor in owner.named_parameters(recurse=False)}
    weights = [name for name, shape in shapes.items() if len(shape) > 1] or list(shapes)[:1]
    if key not in weights or not shapes[key]:
        return 0
    return getattr(owner, "embedding_dim", None) or getattr(owner, "out_channels", None) or shapes[key][0]


def _execute(obj: Any, there: dict[int, tuple[torch.device, torch.dtype]], default: torch.device) -> Any:
    """Move each tensor once, by identity, and route between the devices if there are several."""
    moved: dict[int, tuple[Tensor, Tensor]] = {}  # holds the original, so that no id is used twice

    def move(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor):
            return tensor
        if id(tensor) not in moved:
            target, dtype = there.get(id(tensor), (default, tensor.dtype))
            moved[id(tensor)] = tensor, backend(target).move(tensor, dtype, target.index)
        return moved[id(tensor)][1]

    several = len({target for target, _ in there.values()}) > 1
    for _, _, owner in _walk(obj):
        if isinstance(owner, nn.Module):
            for parameter in owner.parameters(recurse=False):
                if parameter.grad is not None and id(parameter) in there:
                    there[id(parameter.grad)] = there[id(parameter)]
            owner._apply(move, recurse=False)
            for handle in _ROUTES.pop(owner, ()):
                handle.remove()
    return _rebuild(lambda leaf: _routed(leaf, several) if isinstance(leaf, nn.Module) else move(leaf), obj)


def _routed(module: nn.Module, several: bool) -> nn.Module:
    if several:
        _route(module, above=True, outer=None)
    return module


def _route(module: nn.Module, above: bool, outer: torch.device | None) -> None:
    """Have layers take their inputs to where they are; inside a torn layer, also bring outputs back."""
    first = next(chain(module.parameters(), module.buffers()), None)
    home = outer if first is None else first.device
    if not above and home is not None and home != outer:
        handles = [module.register_forward_pre_hook(partial(_bring_inputs, home), with_kwargs=True)]
        if outer is not None:
            handles.append(module.register_forward_hook(partial(_bring_output, outer)))
        _ROUTES[module] = handles
    for child in module.children():
        _route(child, above and _is_above(module, child), None if above else home)


def _bring_inputs(home: torch.device, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:  # noqa: ARG001
    return _to(args, home), _to(kwargs, home)


def _bring_output(outer: torch.device, module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG001
    return _to(output, outer)


def _to(obj: Any, target: torch.device) -> Any:
    return _rebuild(lambda leaf: leaf.to(target) if isinstance(leaf, Tensor) else leaf, obj)


def _rebuild(change: Callable[[Any], Any], obj: Any) -> Any:
    """``obj`` with every leaf changed; mappings become dicts, and named tuples stay what they are."""
    if isinstance(obj, Mapping):
        return {key: _rebuild(change, value) for key, value in obj.items()}
    if isinstance(obj, list):
        return [_rebuild(change, value) for value in obj]
    if isinstance(obj, tuple):
        values = [_rebuild(change, value) for value in obj]
        return type(obj)(*values) if hasattr(obj, "_fields") else tuple(values)
    return change(obj)


def _follow(optimizer: torch.optim.Optimizer, chosen: Sequence[torch.device]) -> torch.optim.Optimizer:
    """Move an optimizer's state to its parameters; step counts stay where torch keeps them."""
    groups = optimizer.param_groups
    if lost := {str(p.device) for group in groups for p in group["params"] if p.device not in chosen}:
        wanted, found = ", ".join(map(str, chosen)), ", ".join(sorted(lost))
        raise AthenaError(
            f"the optimizer's parameters are on {found}, not on {wanted}; place the model first."
        )
    for group in groups:
        counted = bool(group.get("capturable") or group.get("fused"))
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            for key in state:
                if key != "step" or counted:
                    state[key] = _rebuild(partial(_as_storable, parameter.device), state[key])
    return optimizer


def _as_storable(target: torch.device, leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    own = backend(target)
    return own.move(leaf, storable(leaf.dtype, own.caps(target.index or 0)), target.index)

"""Placing: a model's sizes for the planner, devices' rooms, and an optimizer's state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from athena_core._device import backend, device
from athena_core._errors import AthenaError
from athena_core._kept import kept_bytes
from athena_core._move import SPLIT, execute, is_above, out_of_memory, rebuild, routes
from athena_core._placement import DeviceRoom, TensorSize, plan, storable
from athena_core._split import splits


def place(
    obj: Any,
    devices: str | torch.device | Sequence[str | torch.device] = "auto",
    *,
    training: bool = True,
    optimizer_bytes: int = 8,
    rows: int = 0,
    cast: bool = True,
    channels_last: bool | None = None,
    step: Callable[[Any], Any] | None = None,
) -> Any:
    """Plan where every tensor of ``obj`` goes, then move it there; the options are `plan`'s.

    A module is changed in place and its parameters keep their identity, as with ``Module.to``; only an
    embedding or linear layer whose weight the device cannot allocate whole gives way to a
    `SplitEmbedding` or `SplitLinear`, so make the optimizer after placing. Over several devices each
    layer moves its inputs to itself, and the output stays where the last layer is. An optimizer's state
    follows its parameters. Tensors, arrays and modules in mappings, lists and tuples are placed
    together; anything else is returned as it is.

    ``channels_last`` says whether weights of two- and three-dimensional convolutions have their channels
    innermost, which outputs then have too; None is as the device gains. ``step`` is that of `tensor_sizes`.

    Raises PlacementError with nothing moved, when the device runs out of memory after all too;
    AthenaError for a device that is not here.

    >>> import torch
    >>> model = place(torch.nn.Linear(3, 2), "cpu", rows=16)
    >>> place({"x": torch.ones(3), "epoch": 1}, model.weight.device)
    {'x': tensor([1., 1., 1.]), 'epoch': 1}
    """
    chosen = [device(d) for d in ([devices] if isinstance(devices, str | torch.device) else devices)]
    if isinstance(obj, torch.optim.Optimizer):
        return _follow(obj, chosen)
    obj = rebuild(_as_tensor, obj)
    found = _sizes(obj, step)
    planned = plan(
        [size for _, size in found],
        rooms(chosen, [tensor for tensor, _ in found]),
        training=training,
        optimizer_bytes=optimizer_bytes,
        rows=rows,
        cast=cast,
    )
    there = {placed.tensor.name: placed for placed in planned.tensors}
    return execute(obj, [(tensor, there[size.name]) for tensor, size in found], channels_last=channels_last)


def _as_tensor(leaf: Any) -> Any:
    """An array as a tensor, unless it holds what torch has no dtype for, such as text."""
    if not isinstance(leaf, np.ndarray):
        return leaf
    try:
        return torch.as_tensor(leaf)
    except TypeError:
        return leaf


def tensor_sizes(obj: Any, step: Callable[[Any], Any] | None = None) -> list[TensorSize]:
    """What `plan` needs to know of a module, or of tensors and modules in a mapping, list or tuple.

    A layer is a child of the root or an entry of a ``Sequential``, ``ModuleList`` or ``ModuleDict``;
    a child that is such a container, or holds a list or dict of modules, is entered for its layers.
    A tied tensor counts once, where it comes first, and what is beside it elsewhere goes with it.

    Args:
        obj: what will be placed.
        step: one training step of ``obj``, a module, such as ``lambda model: model(torch.zeros(8, 3, 224,
            224))``. It runs on the meta device, on shapes alone, and what each layer keeps for its
            gradients is counted; without it, `plan` estimates that from its ``rows``.

    Raises ValueError for a ``step`` without a module, AthenaError for one that needs more than shapes.

    >>> import torch
    >>> [(size.name, size.layer) for size in tensor_sizes(torch.nn.Sequential(torch.nn.Linear(2, 3)))]
    [('0.weight', '0'), ('0.bias', '0')]
    """
    return [size for _, size in _sizes(obj, step)]


def rooms(devices: Sequence[torch.device], present: Sequence[Tensor] = ()) -> list[DeviceRoom]:
    """What each device has room for now; the ``present`` tensors that lie there count as free."""
    found = []
    for one in devices:
        own, index = backend(one), one.index or 0
        caps, memory = own.caps(index), own.memory(index)
        free = caps.total if memory is None else memory[0]
        if free is not None:
            grads = (tensor.grad for tensor in present if tensor.is_leaf and tensor.grad is not None)
            free += sum(t.numel() * t.itemsize for t in (*present, *grads) if t.device == one)
        found.append(DeviceRoom(str(one), caps, free, own.activation_bytes))
    return found


def _sizes(obj: Any, step: Callable[[Any], Any] | None = None) -> list[tuple[Tensor, TensorSize]]:
    if step is not None and not isinstance(obj, nn.Module):
        raise ValueError(f"`step` is one of a module; got {type(obj).__name__}. Place the module alone.")
    measured = None if step is None else kept_bytes(obj, step)
    sizes: dict[int, tuple[Tensor, TensorSize]] = {}
    for path, layer, owner in _walk(obj):
        own = {"": owner} if isinstance(owner, Tensor) else _own(owner)
        own_hooks = len(routes(owner)) if isinstance(owner, nn.Module) else 0
        layer = next((sizes[id(t)][1].layer for t in own.values() if id(t) in sizes), layer)
        for key, tensor in own.items():
            name = ".".join(filter(None, (path, key)))
            if is_lazy(tensor):
                raise AthenaError(f"`{name}` has no shape yet; call the module once before it is placed.")
            width = _width(owner, key)
            splittable = key == "weight" and splits(owner, own_hooks=own_hooks)
            kept = None if measured is None else measured.pop(path, 0)  # all of it for its first tensor
            if id(tensor) in sizes:
                seen = sizes[id(tensor)][1]
                width, splittable = width + seen.width, splittable and seen.splittable
                kept = None if kept is None or seen.kept is None else kept + seen.kept
                sizes[id(tensor)] = tensor, replace(seen, width=width, splittable=splittable, kept=kept)
            else:
                trainable = tensor.requires_grad and tensor.is_leaf
                shape = tuple(tensor.shape)
                size = TensorSize(name, shape, tensor.dtype, layer, trainable, width, splittable, kept)
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
        yield from _walk(child, inner, inner if above else layer, above and is_above(obj, child))


def _children(obj: Any) -> list[tuple[str, Any]]:
    if isinstance(obj, nn.Module):
        return list(obj.named_children())
    if isinstance(obj, Mapping):
        return [(str(key), value) for key, value in obj.items()]
    return [(str(i), value) for i, value in enumerate(obj)] if isinstance(obj, list | tuple) else []


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


def _follow(optimizer: torch.optim.Optimizer, chosen: Sequence[torch.device]) -> torch.optim.Optimizer:
    """Move an optimizer's state to its parameters; step counts stay where torch keeps them."""
    groups = optimizer.param_groups
    if lost := {str(p.device) for group in groups for p in group["params"] if p.device not in chosen}:
        wanted, found = ", ".join(map(str, chosen)), ", ".join(sorted(lost))
        raise AthenaError(
            f"the optimizer's parameters are on {found}, not on {wanted}; place the model first, and make"
            " the optimizer anew if a weight was split."
        )
    if (gone := next((p for group in groups for p in group["params"] if p in SPLIT), None)) is not None:
        raise AthenaError(
            f"the optimizer still holds the weight {tuple(gone.shape)} whole, which was split; make the"
            " optimizer anew from the placed model."
        )
    moved: list[tuple[dict[str, Any], str, Any]] = []
    full: torch.device | None = None
    for parameter, state, key in _states(optimizer):
        try:
            moved.append((state, key, rebuild(partial(_as_storable, parameter.device), state[key])))
        except torch.OutOfMemoryError:
            full = parameter.device
            break
    if full is not None:  # raised out here, as the error's frames hold copies
        fitted: list[Tensor] = []
        rebuild(
            lambda leaf: fitted.append(leaf) if isinstance(leaf, Tensor) else None, [m for *_, m in moved]
        )
        size = sum(tensor.nbytes for tensor in fitted if tensor.device == full)
        moved.clear()
        fitted.clear()
        raise out_of_memory("the optimizer's state", full, size)
    for state, key, value in moved:
        state[key] = value
    return optimizer


def _states(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, dict[str, Any], str]]:
    """Parameter, its state and the key of each that is where the parameter is."""
    for group in optimizer.param_groups:
        counted = bool(group.get("capturable") or group.get("fused"))
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            yield from ((parameter, state, key) for key in state if key != "step" or counted)


def _as_storable(target: torch.device, leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    own = backend(target)
    return own.move(leaf, storable(leaf.dtype, own.caps(target.index or 0)), target.index)

"""Removal of units: parameters, buffers, gradients and optimizer state, all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from athena_compress._dependencies import SINGLE, DependencyGraph, UnitGroup
from athena_compress._dependency_trace import Trace, follow, follower_of
from athena_compress._surgery_attributes import Sizes, layer_sizes, named_sizes, set_sizes

Kept = dict[int, Tensor]  # indices that stay, by dimension
Undo = list[Callable[[], Any]]


def remove_units(graph: DependencyGraph, units: Mapping[str, Tensor], optimizer: Optimizer | None) -> None:
    """The work of `DependencyGraph.remove`."""
    chosen = {name: ids for name, ids in _checked(graph, units).items() if len(ids)}
    if not chosen:
        return
    named = dict(graph.model.named_parameters()) | dict(graph.model.named_buffers())
    kept = _kept_indices(graph, chosen)
    moves = list(_state_moves(named, kept, optimizer))
    undo: Undo = []
    try:
        with torch.no_grad():
            for name, dims in kept.items():
                _slice(named[name], dims, undo)
            for entries, key, value in moves:
                undo.append(_setter(entries, key, entries[key]))
                entries[key] = value
        _prove(graph, kept, chosen, undo)
    except BaseException:
        for step in reversed(undo):
            step()
        raise
    _restrict(graph, kept, chosen)


def _checked(graph: DependencyGraph, units: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Unit ids without repeats, or an error that tells which group is wrong and how."""
    found = {}
    for name, ids in units.items():
        group = graph.group(name)
        ids = torch.as_tensor(ids, dtype=torch.int64).detach().cpu().reshape(-1).unique()
        if len(ids) and not (int(ids[0]) >= 0 and int(ids[-1]) < group.size):
            raise ValueError(
                f"`units[{name!r}]` must lie in [0, {group.size}); got {ids.tolist()}. Each removal "
                "numbers them anew."
            )
        if len(ids) and not (group.removable or group.statistics):
            raise ValueError(f"`units` must name removable groups; got {name!r}: {group.why}. Leave it out.")
        if len(ids) == group.size:
            raise ValueError(
                f"`units[{name!r}]` must leave at least one of {group.size} units; got all. Keep one."
            )
        found[name] = ids
    return found


def _kept_indices(graph: DependencyGraph, chosen: dict[str, Tensor]) -> dict[str, Kept]:
    """For each tensor and dimension that changes, the indices that stay."""
    keeps: dict[tuple[str, int], Tensor] = {}
    for name, ids in chosen.items():
        group: UnitGroup = graph.group(name)
        gone = torch.zeros(group.size + 1, dtype=torch.bool)  # the last stands for -1
        gone[ids] = True
        for one in group.slices:
            keep = ~gone[one.units]
            place = (one.tensor_name, one.dim)
            keeps[place] = keep & keeps[place] if place in keeps else keep
    kept: dict[str, Kept] = {}
    for (name, dim), keep in keeps.items():
        if not keep.any():
            raise ValueError(
                f"`units` must leave at least one index of dimension {dim} of {name!r}; these groups "
                "together remove all. Keep one unit more."
            )
        kept.setdefault(name, {})[dim] = keep.nonzero()[:, 0]
    return kept


def _part(tensor: Tensor, dims: Kept, shape: torch.Size) -> Tensor:
    """The indices of a tensor that stay; dimensions of size 1, as factored statistics have, are left."""
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    for dim, indices in dims.items():
        if tensor.shape[dim] == shape[dim]:
            tensor = tensor.index_select(dim, indices.to(tensor.device))
    return tensor.contiguous(memory_format=torch.channels_last) if last else tensor


def _slice(tensor: Tensor, dims: Kept, undo: Undo) -> None:
    data, grad = tensor.data, tensor.grad

    def back() -> None:
        tensor.grad = None
        tensor.data = data
        tensor.grad = grad

    undo.append(back)
    shape = tensor.shape
    tensor.grad = None  # torch checks a gradient against the shape
    tensor.data = _part(data, dims, shape)
    if grad is not None:
        tensor.grad = _part(grad, dims, shape)


def _setter(entries: dict[Any, Any], key: Any, value: Any) -> Callable[[], Any]:
    return lambda: entries.__setitem__(key, value)


def _state_moves(
    named: dict[str, Tensor], kept: dict[str, Kept], optimizer: Optimizer | None
) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """Each entry of the optimizer's state that is as large as its parameter, with what is left of it."""
    seen: set[int] = set()
    while optimizer is not None:
        for name, dims in kept.items():
            tensor = named[name]
            entries = optimizer.state.get(tensor, {})
            if id(entries) in seen:
                continue
            seen.add(id(entries))
            for key, value in entries.items():
                if not isinstance(value, Tensor) or value.numel() == 1 != tensor.numel():
                    continue
                if value.ndim != tensor.ndim or any(
                    size not in (1, whole) for size, whole in zip(value.shape, tensor.shape, strict=True)
                ):
                    raise ValueError(
                        f"`optimizer` must keep state of the parameters' shapes; {key!r} of {name!r} has "
                        f"{tuple(value.shape)}, where the parameter has {tuple(tensor.shape)}. Pass None and "
                        "make a new optimizer."
                    )
                yield entries, key, _part(value, dims, tensor.shape)
        inner = getattr(optimizer, "optimizer", None)  # of one that wraps another
        optimizer = inner if isinstance(inner, Optimizer) else None


def _prove(graph: DependencyGraph, kept: dict[str, Kept], chosen: dict[str, Tensor], undo: Undo) -> None:
    """Let attributes follow, and run the example; those that models name in many ways only as needed."""
    before = Sizes(graph, kept)
    set_sizes(layer_sizes(before), undo)
    failure: Exception | None = None
    for changes in named_sizes(before):
        tried: Undo = []
        set_sizes(changes, tried)
        try:
            follower = follower_of(graph.model, graph.trace.findings.whole_groups)
            trace = follow(graph.model, graph.example_inputs, follower)
            moved = _rewired(graph, trace, kept)
            if not moved:
                undo += tried
                return
            failure = RuntimeError(f"what belonged apart meets in {moved}")
        except Exception as error:  # noqa: BLE001  (whatever a model raises for a shape that it does not take)
            failure = failure or error
        for step in reversed(tried):
            step()
    notes = "; ".join(getattr(failure, "__notes__", ()))
    raise RuntimeError(
        f"`units` of {', '.join(map(repr, chosen))} cannot be removed: {failure}"
        f"{f' ({notes})' if notes else ''}. Most often a size in that module's code is a constant: take "
        "it from the tensors (as `view(batch, time, -1, head_dim)` does), or leave the group out. Nothing "
        "was changed."
    ) from failure


def _rewired(graph: DependencyGraph, trace: Trace, kept: dict[str, Kept]) -> str:
    """Weights in which units of the larger model are one in the smaller, or nothing."""
    old_units, labels, names = [], [], []
    for name, dims in trace.labels.items():
        for dim, own in enumerate(dims):
            old = graph.components[graph.trace.labels[name][dim]]
            old_units.append(old[kept[name][dim].numpy()] if dim in kept.get(name, {}) else old)
            labels.append(own)
            names += [name] * len(own)
    if not labels:
        return ""
    old, new = np.concatenate(old_units), np.concatenate(labels)
    # The smaller model may show less: where one head is left, no reshape tells that it was one of several.
    first = np.full(len(graph.components), -1, dtype=np.int64)
    first[old] = new
    trace.book.unify(first[old], new)
    roots = trace.book.components()[new]
    # And what meets something fixed is left out: a single head meets constants that several do not.
    fixed = np.zeros(len(graph.components), dtype=bool)
    for one in graph.trace.book.fixed:
        if not one.statistics:
            fixed[graph.components[one.labels]] = True
    tainted = np.zeros(trace.book.count, dtype=bool)
    tainted[roots[fixed[old]]] = True
    free = ~tainted[roots]
    owner = np.full(trace.book.count, -1, dtype=np.int64)
    owner[roots[free]] = old[free]
    clashes = np.flatnonzero(free & (owner[roots] != old))
    return ", ".join(list(dict.fromkeys(repr(names[at]) for at in clashes))[:3])


def _restrict(graph: DependencyGraph, kept: dict[str, Kept], chosen: dict[str, Tensor]) -> None:
    """Let the graph describe the smaller model, under the same names."""
    labels = graph.trace.labels
    before = np.unique(np.concatenate([labels[name][dim] for name, dims in kept.items() for dim in dims]))
    for name, dims in kept.items():
        labels[name] = [
            own[dims[dim].numpy()] if dim in dims else own for dim, own in enumerate(labels[name])
        ]
    after = np.unique(np.concatenate([labels[name][dim] for name, dims in kept.items() for dim in dims]))
    gone = np.zeros(len(graph.components), dtype=bool)
    gone[graph.components[np.setdiff1d(before, after)]] = True
    findings = graph.trace.findings
    for attention in findings.attentions:
        attention.queries = attention.queries[~gone[graph.components[attention.queries]]]
        attention.keys = attention.keys[~gone[graph.components[attention.keys]]]
    for module, channels in findings.normed.items():
        findings.normed[module] = channels[~gone[graph.components[channels]]]
    graph.groups = [_restricted(group, kept, chosen.get(group.name)) for group in graph.groups]


def _restricted(group: UnitGroup, kept: dict[str, Kept], gone: Tensor | None) -> UnitGroup:
    """The group without some of its units, the others numbered anew."""
    numbers = torch.arange(group.size + 1)
    if gone is not None:
        stays = torch.ones(group.size, dtype=torch.bool)
        stays[gone] = False
        numbers[:-1] = torch.where(stays, stays.cumsum(0) - 1, -1)
    numbers[-1] = -1  # what was in no unit
    slices = []
    for one in group.slices:
        indices = kept.get(one.tensor_name, {}).get(one.dim)
        units = one.units if indices is None else one.units[indices]
        slices.append(replace(one, units=numbers[units]))
    size = group.size if gone is None else group.size - len(gone)
    if size == 1 and (group.removable or group.statistics):
        return replace(group, size=1, slices=slices, removable=False, why=SINGLE, statistics=False)
    return replace(group, size=size, slices=slices)

"""Which units of a model must be removed together: channels, neurons and heads, found by following a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from athena_compress._copied import check_sizes
from athena_compress._dependency_labels import Array
from athena_compress._dependency_trace import Trace, follow, follower_of

SINGLE = "it is a single unit, and at least one is kept"


@dataclass(frozen=True)
class Slice:
    """A dimension of a parameter or buffer: the unit that each index belongs to, or -1.

    >>> graph = dependencies(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), torch.randn(1, 2))
    >>> [(one.tensor_name, one.dim, one.units.tolist()) for one in graph.group("0").slices]
    [('0.weight', 0, [0, 1, 2]), ('0.bias', 0, [0, 1, 2]), ('1.weight', 1, [0, 1, 2])]
    """

    tensor_name: str
    dim: int
    units: Tensor


@dataclass(frozen=True)
class UnitGroup:
    """Units that stand side by side in the same places: the channels of a stream, the heads of a layer.

    A unit is all that one removal takes away, in every slice. ``kind`` is ``"heads"`` for attention heads
    (a key-value head with all query heads that share it), ``"channels"`` where a convolution carries the
    units, else ``"neurons"``. Where ``removable`` is False, ``why`` says what forbids it; where it is so
    because of ``statistics`` (a normalisation's mean over the units would change, even if the units removed
    are zero), `DependencyGraph.remove` still does it for a group that is named.

    >>> group = dependencies(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), torch.randn(1, 2)).group("0")
    >>> group.kind, group.size, group.removable
    ('neurons', 3, True)
    """

    name: str
    kind: str
    size: int
    slices: list[Slice]
    removable: bool
    why: str
    statistics: bool = False


class DependencyGraph:
    """The units of a model, and their removal. Made by `dependencies`.

    >>> dependencies(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), torch.randn(1, 2))
    DependencyGraph(0: 3 neurons)
    """

    def __init__(self, model: nn.Module, example_inputs: Any, trace: Trace) -> None:
        self.model = model
        self.example_inputs = example_inputs
        self.trace = trace
        self.components = trace.book.components()
        self.groups = unit_groups(trace, self.components)

    def group(self, name: str) -> UnitGroup:
        """A group by its name. Raises ValueError for a name that does not exist."""
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(group.name for group in self.groups[:8])
        raise ValueError(
            f"`units` must name groups of the graph; got {name!r}. The names begin with: {known or 'none'}."
        )

    def remove(self, units: Mapping[str, Tensor], optimizer: Optimizer | None = None) -> None:
        """Remove units from the model, in place, and prove that it still runs as it was wired.

        Args:
            units: the ids of the units to remove, by name of their group.
            optimizer: the one that trains the model; its state goes on, sliced as the parameters are.

        Parameters stay the same objects, with smaller data, gradients and states; sizes that modules keep
        as attributes follow. Then the example runs once more. If it fails, or if what an index meets has
        changed, all is put back and a RuntimeError says which module has a constant in the way.
        Afterwards ``groups`` describes the smaller model under the same names, with units numbered anew.
        Raises ValueError for names and ids that do not exist, a group of which nothing would be left, one
        that is not removable, and optimizer state that cannot be sliced; then nothing has changed.

        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> graph = dependencies(model, torch.randn(3, 2))
        >>> graph.remove({"0": torch.tensor([1, 3])})
        >>> model[0], model[2]
        (Linear(in_features=2, out_features=2, bias=True), Linear(in_features=2, out_features=1, bias=True))
        """
        from athena_compress._surgery import remove_units  # which needs the types of this file

        remove_units(self, units, optimizer)

    def __repr__(self) -> str:
        lines = [f"{group.name}: {group.size} {group.kind}" for group in self.groups if group.removable]
        return f"DependencyGraph({', '.join(lines)})"


def dependencies(model: nn.Module, example_inputs: Any) -> DependencyGraph:
    """Find which units of a model must be removed together, by following one run of it.

    Each index of each dimension of each weight gets a label. Every operation that really runs, at the
    level of ATen, joins labels that belong together: an elementwise sum those of both operands, a product
    those that it sums over, a concatenation none. A unit is a connected component of labels.

    Args:
        model: any module; it runs once, in ``eval()`` and without gradients, and is left as it was.
        example_inputs: a tensor, a tuple of arguments, or a mapping of keyword arguments. Small ones do.

    Inputs and outputs of the model keep their sizes. Heads are units as soon as queries and keys are
    multiplied: with grouped queries a key-value head and all its query heads are one unit; where all share
    a single key-value head, each query head is one. Groups of a convolution leave whole where they are many
    and narrow, else the same channels leave each group. An operation without a rule fixes all that it
    takes. Outputs that hide tensors in objects, as caches do, are not looked into. Sizes that the code works
    with are not seen: a removal proves that the model runs and meets the same units, not that a scale or the
    bounds of a slice that is summed are still meant as they were.

    Raises ValueError for a model that holds a `torch.nn.MultiheadAttention`, whose projections are one
    tensor with sizes of its own, and RuntimeError for one that looks at computed values, which may do
    something else for other inputs.
    Source: Fang et al. 2023, arXiv:2301.12900, section 3.2, for groups of dependent parameters. Departs from
    it: groups come from labels of single indices, not from rules between neighbouring layers, so reshapes,
    concatenations and shared weights need no cases of their own.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> graph = dependencies(model, torch.randn(1, 3, 8, 8))
    >>> for group in graph.groups:
    ...     print(group.name, group.size, group.kind, group.removable or group.why)
    0 8 channels True
    3 4 channels they are an output of the model
    """
    check_sizes(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            raise ValueError(
                f"`model` must hold no torch.nn.MultiheadAttention; got {name!r}. Call "
                "`athena_compress.split_attention(model)` first, which gives it projections of its own."
            )
    return DependencyGraph(model, example_inputs, follow(model, example_inputs, follower_of(model)))


def unit_groups(trace: Trace, components: Array) -> list[UnitGroup]:
    """Units with the same places, as groups, in the order in which the model makes them."""
    places = [(name, dim) for name, dims in trace.labels.items() for dim in range(len(dims))]
    if not places:
        return []
    count = len(components)
    held = [np.unique(components[trace.labels[name][dim]]) for name, dim in places]
    # Each place has a random number; units in the same places have the same sum of them.
    numbers = np.random.default_rng(0).integers(1, 2**63, size=len(places), dtype=np.uint64)
    signature = np.zeros(count, dtype=np.uint64)
    for number, units in zip(numbers, held, strict=True):
        signature[units] += number
    made = np.zeros(count, dtype=bool)
    for labels in trace.book.made:
        made[components[labels]] = True
    roots = np.unique(np.concatenate(held))
    roots = roots[made[roots]]
    _, number_of = np.unique(signature[roots], return_inverse=True)
    group_of = np.full(count, -1, dtype=np.int64)
    group_of[roots] = number_of
    members: dict[int, list[tuple[str, int]]] = {}
    for name, dim in places:
        numbers_here = group_of[components[trace.labels[name][dim]]]
        found, at = np.unique(numbers_here, return_index=True)
        for number in found[np.argsort(at)]:
            if number >= 0:
                members.setdefault(int(number), []).append((name, dim))
    return _named(trace, components, group_of, members)


def _named(
    trace: Trace, components: Array, group_of: Array, members: dict[int, list[tuple[str, int]]]
) -> list[UnitGroup]:
    marks = _marks(trace, components)
    unit_of = np.full(len(components), -1, dtype=np.int64)
    groups: list[UnitGroup] = []
    taken: dict[str, int] = {}
    for number, places in members.items():
        units = np.flatnonzero(group_of == number)
        unit_of[units] = np.arange(len(units))
        slices = []
        for name, dim in places:
            roots = components[trace.labels[name][dim]]
            inside = np.where(group_of[roots] == number, unit_of[roots], -1)
            slices.append(Slice(name, dim, torch.from_numpy(inside)))
        first = next((one for one in slices if one.tensor_name in trace.parameters), slices[0]).tensor_name
        name = first.rpartition(".")[0] or first
        taken[name] = taken.get(name, 0) + 1
        name = name if taken[name] == 1 else f"{name}#{taken[name]}"
        groups.append(_group(name, units, slices, marks))
    return groups


@dataclass
class _Marks:
    heads: Array
    convolved: Array
    hard: Array  # one more than the place in `reasons`, 0 for none
    soft: Array
    reasons: list[str]


def _marks(trace: Trace, components: Array) -> _Marks:
    def marked(arrays: list[Array]) -> Array:
        marks = np.zeros(len(components), dtype=np.int64)
        for labels in arrays:
            marks[components[labels]] = 1
        return marks

    hard, soft = marked([]), marked([])
    reasons = [one.why for one in trace.book.fixed]
    for at in reversed(range(len(reasons))):  # so that the first reason stays
        one = trace.book.fixed[at]
        (soft if one.statistics else hard)[components[one.labels]] = at + 1
    return _Marks(marked(trace.findings.heads), marked(trace.findings.convolved), hard, soft, reasons)


def _group(name: str, units: Array, slices: list[Slice], marks: _Marks) -> UnitGroup:
    kind = "neurons"
    if marks.heads[units].any():
        kind = "heads"
    elif marks.convolved[units].any():
        kind = "channels"
    hard, soft = marks.hard[units], marks.soft[units]
    why, statistics = "", False
    if hard.any():
        why = marks.reasons[hard[hard > 0].min() - 1]
    elif len(units) == 1:
        why = SINGLE
    elif soft.any():
        why, statistics = marks.reasons[soft[soft > 0].min() - 1], True
    return UnitGroup(name, kind, len(units), slices, not why, why, statistics)

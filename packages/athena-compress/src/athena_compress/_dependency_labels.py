"""Labels of dimensions: which index of which tensor belongs to which unit, and what joins or fixes them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Dimensions of a tensor that are labelled together; a dimension in no block has a constant size.

    A dimension alone has a vector of labels. One that was split, as a width into heads and their
    dimensions, has an array over all its parts until an operation tells which of them may shrink.
    """

    dims: tuple[int, ...]
    labels: Array
    axes: tuple[int, ...]  # of the split that they come from; -1 for a dimension that was never split
    weak: bool = False  # made by a broadcast or a factory, and of whatever size it meets

    def without(self, dim: int) -> Block | None:
        """The block where that dimension is represented by its first index."""
        if len(self.dims) == 1:
            return None
        at = self.dims.index(dim)
        labels = self.labels.take(0, axis=at)
        return replace(
            self,
            dims=self.dims[:at] + self.dims[at + 1 :],
            labels=labels,
            axes=self.axes[:at] + self.axes[at + 1 :],
        )

    def moved(self, places: dict[int, int]) -> Block:
        """The block with its dimensions renamed, in ascending order."""
        dims = [places[dim] for dim in self.dims]
        order = sorted(range(len(dims)), key=dims.__getitem__)
        return replace(
            self,
            dims=tuple(dims[i] for i in order),
            labels=self.labels.transpose(order),
            axes=tuple(self.axes[i] for i in order),
        )


@dataclass(frozen=True)
class Labels:
    """What is known of a tensor: its blocks, and what its values depend on."""

    shape: tuple[int, ...]
    blocks: list[Block]
    level: int = 0  # 0: neither, 1: on integers of the input, 2: on numbers of the input
    learned: bool = False  # a parameter or buffer itself


@dataclass
class Fixed:
    """Labels that must not be removed, and why."""

    labels: Array
    why: str
    statistics: bool  # removing them is possible, and changes what the others become


@dataclass
class Book:
    """All labels of a trace, and what was found out about them."""

    count: int = 0
    axis_count: int = 0
    edges: list[tuple[Array, Array]] = field(default_factory=list)
    fixed: list[Fixed] = field(default_factory=list)
    splits: list[Block] = field(default_factory=list)
    made: list[Array] = field(default_factory=list)  # labels that a weight writes, rather than reads
    held: set[int] = field(default_factory=set)
    hinted: set[int] = field(default_factory=set)  # axes whose size the model's code left open, as -1
    linked: dict[int, int] = field(default_factory=dict)
    siblings: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def fresh(self, count: int) -> Array:
        """New labels."""
        self.count += count
        return np.arange(self.count - count, self.count, dtype=np.int64)

    def fresh_blocks(self, shape: tuple[int, ...], *, weak: bool = False) -> list[Block]:
        """New labels for every dimension of a shape."""
        return [Block((dim,), self.fresh(size), (-1,), weak) for dim, size in enumerate(shape)]

    def unify(self, first: Array, second: Array) -> None:
        """These labels are removed together, index by index."""
        if first is not second:
            first, second = np.broadcast_arrays(first, second)
            self.edges.append((first.reshape(-1), second.reshape(-1)))

    def fix(self, labels: Array, why: str, *, statistics: bool = False) -> None:
        """These labels stay."""
        self.fixed.append(Fixed(labels.reshape(-1), why, statistics))

    def root(self, axis: int) -> int:
        """The axis that stands for all that are linked with this one."""
        while axis in self.linked:
            axis = self.linked[axis]
        return axis

    def link(self, first: Block, second: Block) -> None:
        """Axes of equal meaning: where one cannot shrink, neither can the other."""
        for one, other in zip(first.axes, second.axes, strict=True):
            one, other = self.root(one), self.root(other)
            if one >= 0 and other >= 0 and one != other:
                low, high = min(one, other), max(one, other)
                self.linked[high] = low
                if high in self.held:
                    self.held.add(low)

    def holds(self, axis: int) -> bool:
        """Whether an axis cannot shrink."""
        return self.root(axis) in self.held

    def hold(self, axis: int) -> None:
        """This axis cannot shrink."""
        if axis >= 0:
            self.held.add(self.root(axis))

    def split(self, block: Block, *, fresh: list[int]) -> Block:
        """The block with new axes for dimensions that came of a split, at most one of which may shrink."""
        axes = list(block.axes)
        for dim in fresh:
            axes[block.dims.index(dim)] = self.axis_count
            self.axis_count += 1
        block = replace(block, axes=tuple(axes))
        for axis in axes:
            self.siblings.setdefault(axis, tuple(other for other in axes if other != axis))
        self.splits.append(block)
        return block

    def close(self, block: Block, dim: int, why: str, *, statistics: bool = False) -> Block | None:
        """This dimension of the block keeps its size; what is left of the block."""
        at = block.dims.index(dim)
        axis = block.axes[at]
        if axis < 0 or all(self.holds(other) for other in self.siblings[axis]):
            self.fix(block.labels, why, statistics=statistics)
        else:
            self.hold(axis)
            self.unify(block.labels.take([0], axis=at), block.labels)
        return block.without(dim)

    def close_all(
        self, blocks: list[Block], dims: set[int], why: str, *, statistics: bool = False
    ) -> list[Block]:
        """Blocks of which these dimensions keep their sizes."""
        found: list[Block] = []
        for block in blocks:
            left: Block | None = block
            for dim in block.dims:
                if dim in dims and left is not None:
                    left = self.close(left, dim, why, statistics=statistics)
            if left is not None:
                found.append(left)
        return found

    def settled(self, blocks: list[Block]) -> list[Block]:
        """Blocks without the dimensions that were found to keep their sizes since."""
        found: list[Block] = []
        for block in blocks:
            left: Block | None = block
            for dim, axis in zip(block.dims, block.axes, strict=True):
                if left is not None and axis >= 0 and self.holds(axis):
                    self.unify(left.labels.take([0], axis=left.dims.index(dim)), left.labels)
                    left = left.without(dim)
            if left is not None:
                found.append(left)
        return found

    def settle_splits(self) -> None:
        """Let one part of each split shrink: the one that nothing held, and of several the last."""
        for block in self.splits:
            free = [axis for axis in block.axes if not self.holds(axis)]
            hinted = [axis for axis in free if axis in self.hinted]
            for axis in free:
                if axis != (hinted or free)[-1]:
                    self.hold(axis)
        for block in self.splits:
            self.settled([block])

    def components(self) -> Array:
        """The number of the unit that each label belongs to: the least label among those joined."""
        self.settle_splits()
        if not self.edges:
            return np.arange(self.count, dtype=np.int64)
        first = np.concatenate([edge[0] for edge in self.edges])
        second = np.concatenate([edge[1] for edge in self.edges])
        return connected(self.count, first, second)


def connected(count: int, first: Array, second: Array) -> Array:
    """The least member of each node's connected component, by hooking roots and jumping over parents."""
    parent = np.arange(count, dtype=np.int64)
    while True:
        one, other = parent[first], parent[second]
        apart = one != other
        if not apart.any():
            return parent
        first, second, one, other = first[apart], second[apart], one[apart], other[apart]
        np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))
        while True:
            grand = parent[parent]
            if np.array_equal(grand, parent):
                break
            parent = grand

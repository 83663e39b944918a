"""Merging and splitting of dimensions, as `view` and `reshape` do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from athena_compress._dependency_align import dropped
from athena_compress._dependency_labels import Block, Book, Labels
from athena_compress._dependency_rules import Call

_MERGED = -1  # the name of a dimension between merging and splitting


def regrouped(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The least groups of dimensions with equal products, sizes of 1 left out.

    >>> regrouped((2, 3, 4), (6, 2, 2))
    [([0, 1], [0]), ([2], [1, 2])]
    """
    sources = [dim for dim, size in enumerate(before) if size != 1]
    targets = [dim for dim, size in enumerate(after) if size != 1]
    groups, i, j = [], 0, 0
    while i < len(sources):
        source, target = [sources[i]], [targets[j]]
        product, other = before[sources[i]], after[targets[j]]
        i, j = i + 1, j + 1
        while product != other:
            if product < other:
                source.append(sources[i])
                product *= before[sources[i]]
                i += 1
            else:
                target.append(targets[j])
                other *= after[targets[j]]
                j += 1
        groups.append((source, target))
    return groups


def reshaped(call: Call, labels: Labels, shape: tuple[int, ...], open_dim: int | None) -> list[Block]:
    """Blocks of a tensor after a reshape in which ``open_dim`` was given as -1."""
    ones = {dim for dim, size in enumerate(labels.shape) if size == 1}
    blocks = dropped(call.book.settled(labels.blocks), ones)
    offset = len(labels.shape)  # new dimensions are named after the old ones while both are there
    for source, target in regrouped(labels.shape, shape):
        touched = [block for block in blocks if set(block.dims) & set(source)]
        if not touched:
            continue
        blocks = [block for block in blocks if not set(block.dims) & set(source)]
        new = [offset + dim for dim in target]
        if len(source) == len(target) == 1:
            blocks += [block.moved({**_same(block), source[0]: new[0]}) for block in touched]
            continue
        kept = next((block for block in touched if not block.weak), touched[0])
        others = [block for block in touched if block is not kept]
        why = f"{call.place} merges them with another dimension"
        blocks += call.book.close_all(others, set(source), why)
        merged = _merged(call.book, kept, source, [labels.shape[dim] for dim in source])
        hint = None if open_dim is None else offset + open_dim
        blocks += _parted(call.book, merged, new, [shape[dim] for dim in target], hint)
    return [block.moved({dim: dim - offset for dim in block.dims}) for block in blocks]


def _same(block: Block) -> dict[int, int]:
    return {dim: dim for dim in block.dims}


def _merged(book: Book, block: Block, source: list[int], sizes: list[int]) -> Block:
    """The block with dimensions in one, labels repeated along those that have none."""
    inside = [dim for dim in source if dim in block.dims]
    outside = [dim for dim in block.dims if dim not in source]
    labels = block.labels.transpose([block.dims.index(dim) for dim in inside + outside])
    rest = labels.shape[len(inside) :]
    narrow = [size if dim in inside else 1 for dim, size in zip(source, sizes, strict=True)]
    labels = np.broadcast_to(labels.reshape(*narrow, *rest), (*sizes, *rest)).reshape(-1, *rest)
    axes = [block.axes[block.dims.index(dim)] for dim in inside + outside]
    if len(inside) > 1:
        axes[: len(inside)] = [-1]
    merged = Block((_MERGED, *outside), np.ascontiguousarray(labels), tuple(axes), block.weak)
    return book.split(merged, fresh=[_MERGED]) if outside and len(inside) > 1 else merged


def _parted(book: Book, block: Block, target: list[int], sizes: list[int], hint: int | None) -> list[Block]:
    """The merged dimension split into others; those along which labels repeat have a constant size."""
    rest = block.labels.shape[1:]
    labels = block.labels.reshape(*sizes, *rest)
    kept: list[int] = []
    for dim in target:
        here = len(kept)  # dimensions before this one that are still there
        first = labels.take([0], axis=here)
        if np.array_equal(np.broadcast_to(first, labels.shape), labels):
            labels = labels.take(0, axis=here)
        else:
            kept.append(dim)
    outside = block.dims[1:]
    if not kept and not outside:
        return []
    if len(kept) <= 1:
        axes = block.axes[: len(kept)] + block.axes[1:]
        return [replace(block, dims=(*kept, *outside), labels=labels, axes=axes)]
    axes = (-1,) * len(kept) + block.axes[1:]
    parted = book.split(replace(block, dims=(*kept, *outside), labels=labels, axes=axes), fresh=kept)
    if book.holds(block.axes[0]):
        for axis in parted.axes[: len(kept)]:
            book.hold(axis)
    if hint in kept:
        book.hinted.add(parted.axes[parted.dims.index(hint)])
    return [parted]

"""Rules of operations that move, merge, split and take parts of dimensions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from athena_compress._dependency_align import broadcast, dropped
from athena_compress._dependency_labels import Block, Labels
from athena_compress._dependency_reshape import reshaped
from athena_compress._dependency_rules import Call, rule


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy")
def _view(call: Call) -> list[list[Block]]:
    labels, shape = call.args[0], call.shapes[0]
    if not isinstance(call.args[1], (list, tuple)) or 0 in shape:
        return [labels.blocks] if labels.shape == shape else _unknown(call)
    open_dim = list(call.args[1]).index(-1) if -1 in call.args[1] else None
    return [reshaped(call, labels, shape, open_dim)]


def _unknown(call: Call) -> list[list[Block]]:
    call.fix_all(call.args[0], f"{call.place} is not understood")
    return [[]]


@rule("permute", "permute_copy")
def _permute(call: Call) -> list[list[Block]]:
    labels = call.args[0]
    order = [call.dim(dim, labels) for dim in call.get(1, "dims")]
    places = {old: new for new, old in enumerate(order)}
    return [[block.moved(places) for block in labels.blocks]]


@rule("transpose", "transpose_", "swapaxes", "t", "t_", "numpy_T", "transpose_copy", "t_copy")
def _transpose(call: Call) -> list[list[Block]]:
    labels = call.args[0]
    places = {dim: dim for dim in range(len(labels.shape))}
    if len(places) > 1:
        one, other = (call.dim(call.get(at, f"dim{at - 1}", at - 1), labels) for at in (1, 2))
        places[one], places[other] = other, one
    return [[block.moved(places) for block in labels.blocks]]


@rule("squeeze", "squeeze_", "unsqueeze", "unsqueeze_", "squeeze_copy", "unsqueeze_copy")
def _squeeze(call: Call) -> list[list[Block]]:
    labels = call.args[0]
    if "unsqueeze" in call.name:
        at = call.get(1, "dim") % (len(labels.shape) + 1)
        places = {dim: dim + (dim >= at) for dim in range(len(labels.shape))}
        return [[block.moved(places) for block in labels.blocks]]
    asked = call.get(1, "dim", range(len(labels.shape)))
    asked = [asked] if isinstance(asked, int) else asked
    gone = {dim for dim in (call.dim(dim, labels) for dim in asked) if labels.shape[dim] == 1}
    kept = [dim for dim in range(len(labels.shape)) if dim not in gone]
    places = {old: new for new, old in enumerate(kept)}
    return [[block.moved(places) for block in dropped(labels.blocks, gone)]]


@rule("expand", "expand_copy")
def _expand(call: Call) -> list[list[Block]]:
    labels, shape = call.args[0], call.shapes[0]
    new = len(shape) - len(labels.shape)
    grown = {dim for dim in range(new, len(shape)) if labels.shape[dim - new] != shape[dim]}
    places = {dim: dim + new for dim in range(len(labels.shape))}
    kept = dropped(labels.blocks, {dim - new for dim in grown})
    # Of whatever size they meet: the code may take it from there, which the run after a removal proves.
    weak = [
        Block((dim,), call.book.fresh(shape[dim]), (-1,), True)
        for dim in range(len(shape))
        if (dim < new or dim in grown) and shape[dim] > 1
    ]
    return [[block.moved(places) for block in kept] + weak]


@rule("repeat")
def _repeat(call: Call) -> list[list[Block]]:
    labels, shape = call.args[0], call.shapes[0]
    new = len(shape) - len(labels.shape)
    repeats = call.get(1, "repeats")
    blocks = []
    for block in call.book.settled(labels.blocks):
        block = block.moved({dim: dim + new for dim in block.dims})
        blocks.append(replace(block, labels=np.tile(block.labels, [repeats[dim] for dim in block.dims])))
    return [blocks]


@rule("slice")
def _slice(call: Call) -> list[list[Block]]:
    labels, dim = call.args[0], call.dim(call.get(1, "dim", 0), call.args[0])
    taken = slice(call.get(2, "start"), call.get(3, "end"), call.get(4, "step", 1))
    return [[_part(block, dim, taken) for block in labels.blocks]]


def _part(block: Block, dim: int, taken: slice) -> Block:
    if dim not in block.dims:
        return block
    index: list[Any] = [slice(None)] * len(block.dims)
    index[block.dims.index(dim)] = taken
    return replace(block, labels=block.labels[tuple(index)])


@rule("split", "split_with_sizes", "unsafe_split", "split_with_sizes_copy", "chunk", "unsafe_chunk")
def _split(call: Call) -> list[list[Block]]:
    labels, dim = call.args[0], call.dim(call.get(2, "dim", 0), call.args[0])
    pieces, start = [], 0
    for shape in call.shapes:
        taken = slice(start, start + shape[dim])
        pieces.append([_part(block, dim, taken) for block in labels.blocks])
        start += shape[dim]
    if len({shape[dim] for shape in call.shapes}) == 1:
        # Equal pieces stay equal: the code may have cut them by their number.
        for piece in pieces[1:]:
            for first, other in zip(pieces[0], piece, strict=True):
                if first.dims == (dim,):
                    call.book.unify(first.labels, other.labels)
    return pieces


@rule("select", "unbind")
def _select(call: Call) -> list[list[Block]]:
    labels = call.args[0]
    dim = call.dim(call.get(1, "dim", 0), labels)
    indices = [call.get(2, "index")] if call.name == "select" else range(labels.shape[dim])
    places = {old: old - (old > dim) for old in range(len(labels.shape)) if old != dim}
    results: list[list[Block]] = [[] for _ in indices]
    for block in call.book.settled(labels.blocks):
        if block.dims == (dim,):
            call.book.close(block, dim, f"{call.place} takes one of them by its index")
            continue
        for result, index in zip(results, indices, strict=True):
            result.append(_selected(call, block, dim, index).moved(places))
    return results


def _selected(call: Call, block: Block, dim: int, index: int) -> Block:
    if dim not in block.dims:
        return block
    at = block.dims.index(dim)
    call.book.hold(block.axes[at])
    return replace(
        block,
        dims=block.dims[:at] + block.dims[at + 1 :],
        labels=block.labels.take(index, axis=at),
        axes=block.axes[:at] + block.axes[at + 1 :],
    )


@rule("cat", "concat", "concatenate")
def _cat(call: Call) -> list[list[Block]]:
    pieces: list[Labels] = [piece for piece in call.args[0] if piece.shape != (0,)]
    if not pieces:
        return [[]]
    dim = call.dim(call.get(1, "dim", 0), pieces[0])
    pieces = [piece for piece in pieces if piece.shape[dim]] or pieces[:1]
    groups = [call.book.settled(piece.blocks) for piece in pieces]
    along = [next((block for block in group if dim in block.dims), None) for group in groups]
    blocks = [block for block in along if block is not None]
    joined: list[Block] = []
    if len(blocks) == len(pieces) and {block.dims for block in blocks} == {blocks[0].dims} != {(dim,)}:
        for block in blocks[1:]:
            call.book.link(blocks[0], block)
        at = blocks[0].dims.index(dim)
        joined = [replace(blocks[0], labels=np.concatenate([block.labels for block in blocks], axis=at))]
    elif blocks:
        joined = [Block((dim,), np.concatenate([call.vector(piece, dim) for piece in pieces]), (-1,))]
    narrow = [_narrowed(call, piece, dim) for piece in pieces]
    rest = broadcast(call.book, narrow, narrow[0].shape, call.constant)
    covered = {place for block in joined for place in block.dims}
    return [joined + [block for block in rest if not covered & set(block.dims)]]


def _narrowed(call: Call, piece: Labels, dim: int) -> Labels:
    """A piece without what it has along a dimension; what was split with that is matched by itself."""
    blocks = [block for block in call.book.settled(piece.blocks) if dim not in block.dims]
    return replace(piece, shape=(*piece.shape[:dim], 1, *piece.shape[dim + 1 :]), blocks=blocks)


@rule("stack")
def _stack(call: Call) -> list[list[Block]]:
    pieces: list[Labels] = list(call.args[0])
    blocks = broadcast(call.book, pieces, pieces[0].shape, call.constant)
    at = call.get(1, "dim", 0) % len(call.shapes[0])
    places = {dim: dim + (dim >= at) for dim in range(len(pieces[0].shape))}
    return [[block.moved(places) for block in blocks]]

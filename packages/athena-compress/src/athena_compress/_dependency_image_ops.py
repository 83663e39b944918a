"""Rules of operations over images: convolutions, pooling, padding, and moves between channels and places."""

from __future__ import annotations

import numpy as np

from athena_compress._dependency_labels import Array, Block, Labels
from athena_compress._dependency_rules import Call, rule


def _with_channels(call: Call, source: Labels, channels: Array, dim: int = 1) -> list[Block]:
    """The batch's blocks with new channels; places have constant sizes."""
    batch = [block for block in call.book.settled(source.blocks) if max(block.dims) < dim]
    return [*batch, Block((dim,), channels, (-1,))]


@rule("convolution", "_convolution", "cudnn_convolution", "mkldnn_convolution")
def _convolution(call: Call) -> list[list[Block]]:
    source, weight, bias = call.args[:3]
    transposed, groups = bool(call.args[6]), int(call.args[8])
    channels = call.vector(source, 1)
    rows, columns = call.vector(weight, 0), call.vector(weight, 1)
    for dim in range(2, len(weight.shape)):
        call.book.fix(call.vector(weight, dim), "they are places of a kernel")
    call.findings.convolved += [rows, columns]
    if groups == 1:
        read, made = (rows, columns) if transposed else (columns, rows)
        call.book.unify(channels, read)
    else:
        made = _grouped(call, weight, (channels, rows, columns), groups, transposed=transposed)
    call.book.made.append(made)
    if bias is not None:
        call.book.unify(made, call.vector(bias, 0))
    return [_with_channels(call, source, made)] + [[] for _ in call.shapes[1:]]


def _grouped(
    call: Call, weight: Labels, labels: tuple[Array, Array, Array], groups: int, *, transposed: bool
) -> Array:
    """Labels of the channels that a grouped convolution makes.

    Units are whole groups where these are many and narrow, as in depthwise convolution; else the same
    channels of each group, since all groups have the same number of them.
    """
    channels, rows, columns = labels
    name = call.parameter_name(weight)
    whole = call.findings.whole_groups.setdefault(name, groups > len(channels) // groups)
    inside, by_row = channels.reshape(groups, -1), rows.reshape(groups, -1)
    if whole:
        call.book.unify(inside[:, :1], inside)
        call.book.unify(by_row[:, :1], by_row)
        call.book.unify(inside[:, 0], by_row[:, 0])
        call.book.fix(columns, f"each group of {call.place} has the same number of them")
        return np.repeat(by_row[:, 0], len(columns)) if transposed else rows
    if transposed:
        call.book.unify(channels, rows)
        call.book.unify(by_row[:1], by_row)
        return np.tile(columns, groups)
    call.book.unify(inside, columns[None])
    call.book.unify(by_row[:1], by_row)
    return rows


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices")
def _pool(call: Call) -> list[list[Block]]:
    source = call.args[0]
    places = len(source.shape) - (1 if "1d" in call.name else 3 if "3d" in call.name else 2)
    blocks = call.book.close_all(
        call.book.settled(source.blocks),
        set(range(places, len(source.shape))),
        f"{call.place} works along them",
    )
    return [blocks] * len(call.shapes)


rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d")(_pool)
rule("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_nearest_exact2d")(_pool)
rule("upsample_nearest1d", "upsample_nearest3d", "upsample_trilinear3d", "_upsample_bilinear2d_aa")(_pool)
rule("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "mkldnn_max_pool2d")(
    _pool
)
rule("upsample_linear1d", "max_pool2d")(_pool)


@rule("constant_pad_nd", "pad")
def _pad(call: Call) -> list[list[Block]]:
    source, pads = call.args[:2]
    blocks = call.book.settled(source.blocks)
    for at in range(len(pads) // 2):
        dim = len(source.shape) - 1 - at
        before, after = pads[2 * at : 2 * at + 2]
        if not (before or after) or not any(dim in block.dims for block in blocks):
            continue
        inside = call.vector(Labels(source.shape, blocks), dim)
        blocks = [block for block in blocks if dim not in block.dims]
        if min(before, after) < 0:
            call.book.fix(inside, f"{call.place} cuts some of them off")
            continue
        edges = call.book.fresh(before + after)
        call.book.fix(edges, f"{call.place} adds a constant number of zeros")
        blocks.append(Block((dim,), np.concatenate([edges[:before], inside, edges[before:]]), (-1,)))
    return [blocks]


@rule("pixel_shuffle", "pixel_unshuffle")
def _pixel_shuffle(call: Call) -> list[list[Block]]:
    source, factor = call.args[:2]
    dim = len(source.shape) - 3
    channels = call.vector(source, dim)
    if call.name == "pixel_unshuffle":
        return [_with_channels(call, source, np.repeat(channels, factor**2), dim)]
    by_channel = channels.reshape(-1, factor**2)
    call.book.unify(by_channel[:, :1], by_channel)
    return [_with_channels(call, source, by_channel[:, 0], dim)]


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(call: Call) -> list[list[Block]]:
    source, groups = call.args[:2]
    by_group = call.vector(source, 1).reshape(groups, -1)
    call.book.unify(by_group[:1], by_group)
    return [_with_channels(call, source, by_group.T.reshape(-1))]


@rule("glu")
def _glu(call: Call) -> list[list[Block]]:
    source, dim = call.args[0], call.dim(call.get(1, "dim", -1), call.args[0])
    labels = call.vector(source, dim)
    first, second = np.split(labels, 2)
    call.book.unify(first, second)
    others = [block for block in call.book.settled(source.blocks) if dim not in block.dims]
    return [[*others, Block((dim,), first, (-1,))]]

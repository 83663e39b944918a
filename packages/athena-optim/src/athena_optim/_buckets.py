"""Lists of tensors cut and joined into buckets that fit a cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor
from torch.compiler import is_compiling

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

#: What torch's list ops take; what they return is a tuple.
Tensors = list[Tensor] | tuple[Tensor, ...]
#: Elements of a bucket on the CPU. Several such tensors fit the second-level caches of two cores, and an
#: op's result is small enough for the allocator to hand out memory that it has used before.
PIECE = 2**17
#: Devices on which torch has fused kernels of Adam and AdamW.
FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})


def is_sharded(tensor: Any) -> TypeGuard[DTensor]:
    """Whether it is a DTensor, of which this process may hold a part; found without importing them."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """This process's part of a DTensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A DTensor gathered from all processes; any other tensor as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def in_order(*lists: Sequence[Tensor]) -> bool:
    """Whether tensors at one place of the lists lie in memory alike and without gaps.

    torch's fused kernels on the CPU take that for granted: they walk memory and know no strides, so they
    would update with the wrong elements, and overwrite what lies between.
    """
    if len({*map(type, lists[0])}) > 1 and len({is_sharded(tensor) for tensor in lists[0]}) > 1:
        return False  # nor do they take sharded and whole tensors together
    if all(all(map(Tensor.is_contiguous, one)) for one in lists):
        return True
    rows = list(zip(*lists, strict=True))
    return all(len({t.stride() for t in row}) == 1 and _dense(row[0]) for row in rows)


def _dense(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    return tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def kind(tensor: Tensor) -> tuple[Any, ...]:
    """What tensors must have in common to share a list op: device, dtype, and how they are sharded."""
    return (
        tensor.device,
        tensor.dtype,
        getattr(tensor, "device_mesh", None),
        getattr(tensor, "placements", None),
    )


def buckets(*lists: Sequence[Tensor], cut: bool = True) -> Iterator[tuple[list[Any], ...]]:
    """Walk over parallel lists of tensors, a bucket of each at a time, for elementwise list ops.

    Yields the places in the lists that a bucket was taken from, then its tensors of each list. Tensors
    at one place have one shape; those of a bucket also have one device, dtype and sharding (judged by
    the first list), and of a DTensor its local part comes. On the CPU large contiguous tensors come in
    flat pieces of ``PIECE`` elements, unless ``cut`` is False, and small ones together, so that all ops
    on a bucket but the first find it in the cache; elsewhere, a bucket holds tensors up to the size of
    the largest, which bounds what an op allocates. All processes of a mesh walk over the same places.
    A graph that is being compiled gets all tensors of a kind at once.

    >>> big, small = torch.zeros(2**17 + 1), torch.zeros(3)
    >>> [(at, [piece.numel() for piece in bucket]) for at, bucket in buckets([big, small, small])]
    [([0], [131072]), ([0], [1]), ([1, 2], [3, 3])]
    """
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for index, tensor in enumerate(lists[0]):
        kinds.setdefault(kind(tensor), []).append(index)
    for (device, *_), places in kinds.items():
        if is_compiling():
            yield places, *([local(one[i]) for i in places] for one in lists)
            continue
        on_cpu = device.type == "cpu"
        limit = PIECE if on_cpu else max(lists[0][i].numel() for i in places)
        joined: list[int] = []
        size = 0
        for place in places:
            count = lists[0][place].numel()  # of the whole tensor, so that processes agree
            if count >= limit:
                tensors = [local(one[place]) for one in lists]
                if cut and on_cpu and all(t.is_contiguous() for t in tensors):
                    for pieces in zip(*(t.view(-1).split(limit) for t in tensors), strict=True):
                        yield [place], *([piece] for piece in pieces)
                else:
                    yield [place], *([t] for t in tensors)
                continue
            if joined and size + count > limit:
                yield joined, *([local(one[i]) for i in joined] for one in lists)
                joined, size = [], 0
            joined.append(place)
            size += count
        if joined:
            yield joined, *([local(one[i]) for i in joined] for one in lists)


def norms(tensors: Sequence[Tensor], parts: Tensors) -> Tensor:
    """Euclidean norms of whole tensors of one kind from ``parts``, each their local part or derived from it.

    Shape: ``(n_tensors,)``, at least float32. Of sharded tensors the squares are summed over the mesh;
    the norm of one shard is too small by about the root of their number.
    """
    dtype = torch.promote_types(parts[0].dtype, torch.float32)
    local_norms = torch.stack(torch._foreach_norm(parts, 2.0, dtype=dtype))
    mesh, placements = getattr(tensors[0], "device_mesh", None), getattr(tensors[0], "placements", ())
    if mesh is None:
        return local_norms
    squares = local_norms.square()
    for axis, placement in enumerate(placements):
        if placement.is_shard():
            torch.distributed.all_reduce(squares, group=mesh.get_group(axis))
    return squares.sqrt()

"""Tensors as memory and views of it: what shares memory is written once and shares it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

#: What every supported safetensors reads; other dtypes are written as bytes.
NATIVE = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
)
_ALIGNMENT = 16  # bytes; no element is larger


class Tensors:
    """Tensors of a model by the order in which they were met, each once."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._met: list[tuple[str, Tensor, Tensor]] = []  # the first keeps its id from being used again

    def add(self, tensor: Tensor, path: str) -> int:
        """The tensor's number. Raises ValueError, naming ``path``, for one that no plain memory holds."""
        number = self._numbers.get(id(tensor))
        if number is None:
            number = self._numbers[id(tensor)] = len(self._met)
            _check(tensor, path)
            with torch.no_grad():
                plain = tensor.detach().resolve_conj().resolve_neg()
            self._met.append((path, tensor, plain))
        return number

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Records of memories and of the tensors in them, and the contents to be written, by name."""
        groups: dict[tuple[str, int], list[int]] = {}
        for number, (_, _, plain) in enumerate(self._met):
            groups.setdefault(_memory_of(plain), []).append(number)
        records: list[dict[str, Any]] = [{} for _ in self._met]
        memories: list[dict[str, Any]] = []
        contents: dict[str, Tensor] = {}
        for numbers in groups.values():
            path = self._met[numbers[0]][0]
            memory, start = _cover([self._met[number][2] for number in numbers])
            for number in numbers:
                records[number] = self._record(number, len(memories), start)
            memories.append({"name": path, "meta": memory.is_meta, **_form(memory)})
            if not memory.is_meta:
                contents[path] = memory
        return {"memories": memories, "tensors": records}, contents

    def _record(self, number: int, memory: int, start: int) -> dict[str, Any]:
        path, tensor, plain = self._met[number]
        offset = plain.storage_offset() - start // plain.element_size() if plain.numel() else 0
        flags = {
            "parameter": isinstance(tensor, nn.Parameter),
            "requires_grad": tensor.requires_grad and tensor.is_leaf,
        }
        return {"path": path, "memory": memory, "offset": offset, **_form(plain), **flags}


def unpack(records: Mapping[str, Any], contents: Mapping[str, Tensor]) -> list[Tensor]:
    """The tensors again, on the CPU, or on ``meta`` where they were.

    Raises ValueError for contents that are missing, of another shape or dtype, or too small for a tensor.
    """
    memories = [_memory(one, contents) for one in records["memories"]]
    return [_view(one, memories[one["memory"]]) for one in records["tensors"]]


def _check(tensor: Tensor, path: str) -> None:
    if is_lazy(tensor):
        raise ValueError(f"`model`: `{path}` has no values yet. Run the model once before saving it.")
    kind = type(tensor)
    if kind not in (Tensor, nn.Parameter, nn.Buffer) or tensor.layout != torch.strided or tensor.is_quantized:
        layout = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        raise ValueError(
            f"`model`: `{path}` must be a plain dense tensor; got {kind.__module__}.{kind.__qualname__} "
            f"({layout}). Replace it by a dense tensor."
        )


def _memory_of(tensor: Tensor) -> tuple[str, int]:
    """What is the same for tensors that share memory; memory without an address has its own number."""
    storage = tensor.untyped_storage()
    return str(tensor.device), storage.data_ptr() or -storage._cdata


def _form(tensor: Tensor) -> dict[str, Any]:
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()),
    }


def _cover(views: list[Tensor]) -> tuple[Tensor, int]:
    """A tensor over all memory that the views use, and the byte at which it starts.

    One of the views where possible, so that the file reads like a state dict; else the bytes.
    """
    first = views[0]
    form = (first.dtype, first.shape, first.stride(), first.storage_offset())
    if first.dtype in NATIVE:
        start = int(first.storage_offset()) * first.element_size()
        if all((v.dtype, v.shape, v.stride(), v.storage_offset()) == form for v in views):
            seed = _without_repeats(first)
            if _is_injective(seed):
                return seed, start
        spans = [_span(view) for view in views if view.numel()]
        for view in views:
            if not spans:
                break
            whole = min(low for low, _ in spans), max(high for _, high in spans)
            same = all(other.dtype == view.dtype for other in views)
            if same and view.is_contiguous() and view.numel() and _span(view) == whole:
                return view, whole[0]
    spans = [_span(view) for view in views if view.numel()] or [(0, 0)]
    low = min(low for low, _ in spans) // _ALIGNMENT * _ALIGNMENT
    size = max(high for _, high in spans) - low
    flat = torch.empty(0, dtype=torch.uint8, device=first.device)
    storages = (view.untyped_storage() for view in views)  # of one array of NumPy's there may be several
    return flat.set_(max(storages, key=len), low, (size,), (1,)), low


def _span(tensor: Tensor) -> tuple[int, int]:
    """First byte that a tensor with elements uses, and the one after its last."""
    last = sum((side - 1) * step for side, step in zip(tensor.shape, tensor.stride(), strict=True))
    low = int(tensor.storage_offset())
    return low * tensor.element_size(), (low + last + 1) * tensor.element_size()


def _without_repeats(tensor: Tensor) -> Tensor:
    """One entry along each axis that `Tensor.expand` repeats."""
    for axis, step in enumerate(tensor.stride()):
        if step == 0 and tensor.shape[axis] > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def _is_injective(tensor: Tensor) -> bool:
    """Whether no two entries share memory, as far as the strides' order tells."""
    reach = 1
    axes = sorted(zip(tensor.stride(), tensor.shape, strict=True))
    for step, side in axes:
        if side > 1:
            if step < reach:
                return False
            reach = step * side
    return True


def _memory(record: Mapping[str, Any], contents: Mapping[str, Tensor]) -> Tensor:
    name, dtype, shape = record["name"], _dtype(record["dtype"]), tuple(record["shape"])
    stride = tuple(record["stride"])
    if record["meta"]:
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    stored = contents.get(name)
    if stored is None:
        raise ValueError(f"the file of tensors must hold `{name}`, and does not. Save the model again.")
    if stored.shape != shape or stored.dtype != dtype:
        raise ValueError(
            f"the file of tensors must hold `{name}` with shape {shape} and {dtype}; got "
            f"{tuple(stored.shape)} and {stored.dtype}. Save the model again."
        )
    if stored.stride() == stride:
        return stored
    return torch.empty_strided(shape, stride, dtype=dtype).copy_(stored)


def _view(record: Mapping[str, Any], memory: Tensor) -> Tensor:
    dtype, shape, stride = _dtype(record["dtype"]), tuple(record["shape"]), tuple(record["stride"])
    offset = record["offset"]
    last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
    fits = 0 in shape or (last + 1) * dtype.itemsize <= memory.untyped_storage().nbytes()
    if min((offset, *shape, *stride)) < 0 or not fits:
        raise ValueError(
            f"`{record['path']}` must lie inside of its memory, and does not. Save the model again."
        )
    tensor = torch.empty(0, dtype=dtype, device=memory.device)
    if 0 in shape:
        tensor = torch.empty_strided(shape, stride, dtype=dtype, device=memory.device)
    else:
        tensor.set_(memory.untyped_storage(), offset, shape, stride)
    if record["parameter"]:
        return nn.Parameter(tensor, requires_grad=record["requires_grad"])
    return tensor.requires_grad_(record["requires_grad"])


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"this torch must have the dtype {name!r}, and has not. Install a newer torch.")
    return dtype

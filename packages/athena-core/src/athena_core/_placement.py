"""Where each tensor goes, planned from sizes and capabilities alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from athena_core._device import DeviceCaps, activation_bytes
from athena_core._errors import AthenaError

_WITHOUT_FP64 = {torch.float64: torch.float32, torch.complex128: torch.complex64}

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_HEAD = (
    *("device", "tensors", "from", "to"),
    *("parameters", "gradients", "optimizer", "activations", "total", "free"),
)


class PlacementError(AthenaError):
    """What does not fit: needed, free, the tensor's name and size, a remedy. Nothing was moved.

    >>> room = DeviceRoom("gpu:0", DeviceCaps(), free=2**20)
    >>> try:
    ...     plan([TensorSize("weight", (1024, 1024), torch.float32)], [room], training=False)
    ... except PlacementError as error:
    ...     print(str(error).partition(";")[0])
    `weight` (1024 x 1024, float32, 4.00 MiB) and what is kept beside it need 4.00 MiB
    """


@dataclass(frozen=True)
class TensorSize:
    """What the planner knows of a tensor.

    Args:
        name: as in the state dict.
        shape: of any length; () is a scalar.
        dtype: as it is now.
        layer: tensors of one layer stay on one device; layers are placed in order of appearance.
        trainable: it takes a gradient and optimizer state.
        width: features that the module whose weight it is puts out; 0 for anything else.
        splittable: its rows may lie in several pieces, as every module that holds it can be split.
        kept: bytes that its module keeps in training, where they were measured; None to estimate them.

    >>> TensorSize("weight", (2, 3), torch.float32).bytes()
    24
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layer: str = ""
    trainable: bool = False
    width: int = 0
    splittable: bool = False
    kept: int | None = None

    def bytes(self, dtype: torch.dtype | None = None) -> int:
        """Size as ``dtype``, or as it is."""
        return math.prod(self.shape) * (dtype or self.dtype).itemsize


@dataclass(frozen=True)
class DeviceRoom:
    """A device to plan for: what it can do, free bytes (None: unlimited), its activation estimate.

    >>> room = DeviceRoom("gpu:0", DeviceCaps(), free=2**20)
    >>> plan([TensorSize("weight", (2, 3), torch.float32)], [room], training=False).loads[0].total
    24
    """

    device: str
    caps: DeviceCaps
    free: int | None = None
    activation: Callable[[TensorSize, int], int] = activation_bytes


@dataclass(frozen=True)
class Load:
    """Bytes that one device is given."""

    room: DeviceRoom
    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        """All of them together."""
        return self.parameters + self.gradients + self.optimizer + self.activations

    @property
    def fits(self) -> bool:
        """Whether the device has room for them."""
        return self.room.free is None or self.total <= self.room.free


@dataclass(frozen=True)
class Placed:
    """One tensor's device, its dtype there, and the rows of each piece if it is split (else none)."""

    tensor: TensorSize
    device: str
    dtype: torch.dtype
    pieces: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Every tensor's place and every device's load; its ``str`` is a table."""

    tensors: tuple[Placed, ...]
    loads: tuple[Load, ...]
    torn: tuple[str, ...]

    @property
    def casts(self) -> tuple[Placed, ...]:
        """Tensors whose dtype changes."""
        return tuple(placed for placed in self.tensors if placed.dtype != placed.tensor.dtype)

    @property
    def splits(self) -> tuple[Placed, ...]:
        """Tensors in pieces."""
        return tuple(placed for placed in self.tensors if placed.pieces)

    def __str__(self) -> str:
        rows = [_HEAD, *map(self._row, self.loads)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines += [f"cast: {p.tensor.name}, {_short(p.tensor.dtype)} to {_short(p.dtype)}" for p in self.casts]
        lines += [f"split: {describe(p.tensor)} into {_pieces_text(p.pieces)}" for p in self.splits]
        lines += [f"torn apart, too large for one device: {layer}" for layer in self.torn]
        return "\n".join(lines)

    def _row(self, load: Load) -> tuple[str, ...]:
        here = [p.tensor.layer or p.tensor.name for p in self.tensors if p.device == load.room.device]
        parts = (load.parameters, load.gradients, load.optimizer, load.activations)
        sizes = map(size_text, (*parts, load.total, load.room.free))
        return (load.room.device, str(len(here)), *(here[:1] + here[-1:] or "--"), *sizes)


def plan(
    tensors: Iterable[TensorSize],
    devices: Sequence[DeviceRoom],
    *,
    training: bool = True,
    optimizer_bytes: int = 8,
    rows: int = 0,
    cast: bool = True,
) -> Plan:
    r"""Fill the devices, in order, with the layers, in order. Pure: touches no device.

    A device's load, over the tensors given to it, is
    :math:`\sum b + \sum_\text{trainable} (b + k n) + \sum a` in training and
    :math:`\sum b + \max a` in inference: :math:`b` bytes as cast, :math:`n` elements, :math:`k`
    ``optimizer_bytes``, :math:`a` the device's activation estimate. No tensor, nor the float32
    optimizer state of one, may exceed the device's largest allocation: one that would is split into
    pieces of rows, as few and as equal as can be, if it is splittable. Taking layers away never
    raises a load, so filling each device as far as it goes finds a split into runs of neighbouring
    layers whenever one exists. A layer that no device holds whole is torn into its modules.

    Args:
        tensors: in the order of computation, tied ones once, as `tensor_sizes` returns them.
        devices: what may be used, in order; the host last means offloading to it.
        training: count gradients, optimizer state and every layer's activations.
        optimizer_bytes: optimizer state a trainable element (8: two float32 moments).
        rows: batch times positions of one step, for the activations; 0 leaves them out.
        cast: give a device without float64 float32 instead; False refuses.

    Raises PlacementError where no split exists, ValueError for repeated names or devices and counts below 0.
    Source: none.

    >>> import torch
    >>> from athena_core import DeviceCaps
    >>> layers = [TensorSize(f"{i}.weight", (256, 1024), torch.float32, layer=str(i)) for i in range(3)]
    >>> rooms = [DeviceRoom(f"gpu:{i}", DeviceCaps(), free=2 * 2**20) for i in range(2)]
    >>> [placed.device for placed in plan(layers, rooms, training=False).tensors]
    ['gpu:0', 'gpu:0', 'gpu:1']
    """
    tensors = list(tensors)
    for what, names in (("tensors", [t.name for t in tensors]), ("devices", [d.device for d in devices])):
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"`{what}` must have distinct names; got {repeated} repeatedly.")
    if not devices:
        raise ValueError("`devices` must hold at least one; got none.")
    for name, count in (("rows", rows), ("optimizer_bytes", optimizer_bytes)):
        if count < 0:
            raise ValueError(f"`{name}` must be at least 0; got {count}.")
    costs = _Costs(training, optimizer_bytes, rows, cast)
    units, torn = _units(tensors, devices, costs)
    loads, at, placed = [Load(room) for room in devices], 0, []
    for unit in units:
        while not costs.fits(loads[at], unit):
            at += 1
            if at == len(devices):
                raise PlacementError(_refusal(unit, tensors, loads, costs, placed))
        loads[at] = costs.add(loads[at], unit)
        room = devices[at]
        placed += [
            Placed(tensor, room.device, storable(tensor.dtype, room.caps), costs.pieces(tensor, room.caps))
            for tensor in unit
        ]
    return Plan(tuple(placed), tuple(loads), torn)


def storable(dtype: torch.dtype, caps: DeviceCaps) -> torch.dtype:
    """``dtype``, or what a device without float64 holds instead of it."""
    return dtype if caps.fp64 else _WITHOUT_FP64.get(dtype, dtype)


@dataclass(frozen=True)
class _Costs:
    training: bool
    optimizer_bytes: int
    rows: int
    cast: bool

    def obstacle(self, tensor: TensorSize, room: DeviceRoom) -> str:
        """Why not even an empty device of this sort can hold the tensor; empty if it can."""
        dtype = storable(tensor.dtype, room.caps)
        if dtype != tensor.dtype and not self.cast:
            return f"{room.device} lacks {_short(tensor.dtype)}; pass `cast=True` or convert the model"
        largest, limit = self._largest(tensor, room.caps), room.caps.max_alloc
        if limit is not None and largest > limit and not self.pieces(tensor, room.caps):
            share = f"{size_text(largest // tensor.shape[0])} in one row" if tensor.splittable else ""
            return (
                f"{share or f'{size_text(largest)} in one piece'}; the largest allocation on {room.device} is"
                f" {size_text(limit)}. Split the layer, use a smaller dtype or another device"
            )
        return ""

    def _largest(self, tensor: TensorSize, caps: DeviceCaps) -> int:
        """Bytes of the tensor, its gradient or one float32 state of it, whichever is the most."""
        state = min(4, self.optimizer_bytes) if self.training and tensor.trainable else 0
        return math.prod(tensor.shape) * max(storable(tensor.dtype, caps).itemsize, state)

    def pieces(self, tensor: TensorSize, caps: DeviceCaps) -> tuple[int, ...]:
        """Rows of each piece that the device can allocate; none if it need not or cannot be split."""
        largest, limit = self._largest(tensor, caps), caps.max_alloc
        if limit is None or largest <= limit or not tensor.splittable:
            return ()
        rows = tensor.shape[0]
        most = limit // (largest // rows)
        if not most:
            return ()
        count = -(-rows // most)
        less, more = divmod(rows, count)
        return (less + 1,) * more + (less,) * (count - more)

    def add(self, load: Load, unit: Sequence[TensorSize]) -> Load:
        caps, activations = load.room.caps, load.activations
        parameters = gradients = optimizer = 0
        for tensor in unit:
            size = tensor.bytes(storable(tensor.dtype, caps))
            output = load.room.activation(tensor, self.rows)
            parameters += size
            activations = activations + output if self.training else max(activations, output)
            if self.training and tensor.trainable:
                gradients += size
                optimizer += math.prod(tensor.shape) * self.optimizer_bytes
        return replace(
            load,
            parameters=load.parameters + parameters,
            gradients=load.gradients + gradients,
            optimizer=load.optimizer + optimizer,
            activations=activations,
        )

    def fits(self, load: Load, unit: Sequence[TensorSize]) -> bool:
        return self.add(load, unit).fits and not any(self.obstacle(tensor, load.room) for tensor in unit)


def _units(
    tensors: Sequence[TensorSize], devices: Sequence[DeviceRoom], costs: _Costs
) -> tuple[list[list[TensorSize]], tuple[str, ...]]:
    """What stays together: layers, and the modules of a torn layer; and which layers were torn."""
    layers: dict[str, list[TensorSize]] = {}
    for tensor in tensors:
        layers.setdefault(tensor.layer, []).append(tensor)
    units, torn = [], []
    for layer, group in layers.items():
        modules: dict[str, list[TensorSize]] = {}
        for tensor in group:
            modules.setdefault(tensor.name.rpartition(".")[0], []).append(tensor)
        if len(modules) > 1 and not any(costs.fits(Load(room), group) for room in devices):
            torn.append(layer)
            units += modules.values()
        else:
            units.append(group)
    return units, tuple(torn)


def _refusal(
    unit: Sequence[TensorSize],
    tensors: Sequence[TensorSize],
    loads: Sequence[Load],
    costs: _Costs,
    placed: Sequence[Placed],
) -> str:
    """One line: the tensor, what is needed, what is free, what fits, what to do."""
    for tensor in unit:
        if all(costs.obstacle(tensor, load.room) for load in loads):
            return f"{describe(tensor)}: {costs.obstacle(tensor, loads[0].room)}."
    empty = Load(loads[-1].room)
    whole, here = costs.add(empty, tensors), costs.add(empty, unit)
    free = ", ".join(_free(list(alike)) for _, alike in groupby(loads, lambda load: load.room.free))
    fits = f", after all up to `{placed[-1].tensor.name}`, which fit" if placed else ", which is empty"
    left = None if empty.room.free is None else empty.room.free - loads[-1].total
    return (
        f"{describe(max(unit, key=TensorSize.bytes))} and what is kept beside it need"
        f" {size_text(here.total)}; {size_text(left)} is left on {empty.room.device}{fits}."
        f" All together: {size_text(whole.total)} (parameters {size_text(whole.parameters)},"
        f" gradients {size_text(whole.gradients)},"
        f" optimizer {size_text(whole.optimizer)}, activations {size_text(whole.activations)}); free: {free}."
        " Give more devices, or the CPU as the last, a smaller dtype, fewer `rows`, or `training=False`."
    )


def _pieces_text(pieces: Sequence[int]) -> str:
    return f"{len(pieces)} pieces of {pieces[0]} rows{' or one less' if pieces[-1] < pieces[0] else ''}"


def _free(alike: Sequence[Load]) -> str:
    """What neighbours with as much free have free, in one where they are many."""
    free = size_text(alike[0].room.free)
    if len(alike) > 2:
        return f"{alike[0].room.device} to {alike[-1].room.device} {free} each"
    return ", ".join(f"{load.room.device} {free}" for load in alike)


def describe(tensor: TensorSize) -> str:
    shape = " x ".join(map(str, tensor.shape)) or "scalar"
    return f"`{tensor.name}` ({shape}, {_short(tensor.dtype)}, {size_text(tensor.bytes())})"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def size_text(count: int | None) -> str:
    """Bytes in binary units: 1,536 is 1.50 KiB."""
    if count is None:
        return "unknown"
    power = min(4, max(0, count.bit_length() - 1) // 10)
    return f"{count / 1024**power:.{2 if power else 0}f} {_UNITS[power]}"

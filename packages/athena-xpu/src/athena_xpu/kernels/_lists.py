"""Lists of tensors of any sizes in one launch: a table of where they lie, and one of their chunks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._C._dynamo.guards import TensorGuards

from athena_xpu.kernels._launch import DTYPES, launch, prepare

#: Elements that one program takes, and how many at a time. A multiple of 16 bytes in every dtype.
CHUNK, BLOCK = 8192, 1024
WARPS = 4
#: Columns of the table: parameter, gradient, both moments, step, then elements and first chunk.
COLUMNS: tl.constexpr = tl.constexpr(7)

_TL = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
_DTYPE, _DEVICE = attrgetter("dtype"), attrgetter("device")
_PLAIN = frozenset({Tensor, torch.nn.Parameter})
_PLANS: dict[tuple[int, int], _Plan] = {}  # by the number of parameters and who the first one is
_MOST_PLANS = 64


class Launch(NamedTuple):
    """A kernel, how many programs of it, and what it takes."""

    kernel: Any
    programs: int
    args: tuple[Any, ...]
    meta: dict[str, Any]


class Table(NamedTuple):
    """Tensors of one dtype, as kernels find them.

    Args:
        rows: int64, `COLUMNS` numbers a tensor.
        chunks: int32, two numbers a chunk: its tensor, and its number within it.
        meta: the constants that every kernel over a table takes.
    """

    rows: Tensor
    chunks: Tensor
    meta: dict[str, Any]


def takes(lists: Sequence[list[Tensor]], steps: list[Tensor]) -> bool:
    """Whether tensors at one place have one dtype and size, all one device, and none has gaps.

    Steps are float32, on that device or on the host. Tensors like those of the call before are known by one
    look at each, which torch's compiler has in C++: five in Python would cost more than its dispatcher.
    """
    if not steps or any(len(one) != len(steps) for one in lists):
        return False
    every = [*chain(*lists), *steps]
    key = (len(steps), id(lists[0][0]))
    plan = _PLANS.get(key)
    if plan is not None and plan.guards.check(*every):
        return True
    _PLANS.pop(key, None)
    if not _fit(lists, steps):
        return False
    if {*map(type, every)} <= _PLAIN:  # and not, say, fake ones, which have no data
        if len(_PLANS) >= _MOST_PLANS:
            _PLANS.pop(next(iter(_PLANS)), None)
        _PLANS[key] = _Plan(lists, steps)
    return True


def _fit(lists: Sequence[list[Tensor]], steps: list[Tensor]) -> bool:
    every = list(chain(*lists))
    kinds, sizes = [*map(_DTYPE, lists[0])], [*map(Tensor.numel, lists[0])]
    devices = {*map(_DEVICE, every)}
    return (
        all(map(Tensor.is_contiguous, every))
        and {*kinds} <= DTYPES
        and all([*map(_DTYPE, one)] == kinds and [*map(Tensor.numel, one)] == sizes for one in lists[1:])
        and len(devices) == 1
        and {*map(_DTYPE, steps)} == {torch.float32}
        and {*map(_DEVICE, steps)} <= devices | {torch.device("cpu")}
    )


def tables(lists: Sequence[list[Tensor]], steps: list[Tensor]) -> list[Table]:
    """Lay out a table for each dtype of tensors that `takes` has just taken; nothing waits for the device.

    Chunks are kept, and the last table too while its tensors stay where they are.
    """
    plan = _PLANS.get((len(steps), id(lists[0][0]))) or _Plan(lists, steps)
    # Only in the stream that they were sent in are tables sure to have arrived.
    stream = 0 if plan.device.type == "cpu" else torch.accelerator.current_stream(plan.device).stream_id
    return [part.table(lists, steps, stream) for part in plan.parts]


class _Plan:
    """Tensors of some dtypes, sizes and places, and what follows from these alone."""

    def __init__(self, lists: Sequence[list[Tensor]], steps: list[Tensor]) -> None:
        every = [*chain(*lists), *steps]
        self.device = lists[0][0].device
        self.guards = TensorGuards(*every, dynamic_dims_sizes=None, dynamic_dims_strides=None)
        dtypes = {param.dtype for param in lists[0] if param.numel()}
        parts = [
            [i for i, one in enumerate(lists[0]) if one.dtype == dtype] for dtype in _TL if dtype in dtypes
        ]
        self.parts = [_Part(places, lists[0], steps) for places in parts]


class _Part:
    """Those of a plan's tensors that are of one dtype, cut into chunks."""

    def __init__(self, places: list[int], params: list[Tensor], steps: list[Tensor]) -> None:
        self.places = places if len(places) < len(params) else None
        self.device = params[places[0]].device
        sizes = np.array([params[i].numel() for i in places], dtype=np.int64)
        counts = -(-sizes // CHUNK)
        first = np.cumsum(counts) - counts
        tensor = np.repeat(np.arange(len(sizes)), counts)
        self.chunks = np.stack([tensor, np.arange(len(tensor)) - first[tensor]], axis=1).astype(np.int32)
        self.fixed = np.stack([sizes, first])
        self.away = [i for i, place in enumerate(places) if steps[place].device != self.device]
        dtype = _TL[params[places[0]].dtype]
        self.meta = {"DTYPE": dtype, "CHUNK": CHUNK, "BLOCK": BLOCK, "num_warps": WARPS}
        self.sent: dict[int, tuple[bytes, Table, list[Tensor]]] = {}  # by stream

    def table(self, lists: Sequence[list[Tensor]], steps: list[Tensor], stream: int) -> Table:
        if self.places is not None:
            lists, steps = [[one[i] for i in self.places] for one in lists], [steps[i] for i in self.places]
        if self.away:
            steps, moved = list(steps), _sent(torch.stack([steps[i] for i in self.away]).numpy(), self.device)
            for place, step in zip(self.away, moved.unbind(), strict=True):
                steps[place] = step
        where = np.array([[*map(Tensor.data_ptr, one)] for one in (*lists, steps)], dtype=np.int64)
        key, last = where.tobytes(), self.sent.get(stream)
        if last is not None and last[0] == key:
            return last[1]
        rows = _sent(np.ascontiguousarray(np.concatenate([where, self.fixed]).T), self.device)
        chunks = _sent(self.chunks, self.device) if last is None else last[1].chunks
        table = Table(rows, chunks, self.meta)
        self.sent[stream] = key, table, steps  # steps that were moved must stay where kernels look for them
        return table


def _sent(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """The array on the device; from pinned memory, from which a copy does not wait for what runs there."""
    host = torch.from_numpy(array)
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)


def run_in_order(launches: list[Launch], on: Tensor) -> None:
    """Run kernels, once all of them are known to compile.

    Raises KernelFailed before anything has run.
    """
    for kernel, _, args, meta in launches[1:]:
        prepare(kernel, *args, on=on, **meta)
    for kernel, programs, args, meta in launches:
        launch(kernel, (programs,), *args, on=on, **meta)


@triton.jit
def read_row(rows, chunks, CHUNK: tl.constexpr):
    """A program's tensor, its row of the table, and the start and length of the program's chunk of it."""
    chunk = tl.program_id(0).to(tl.int64)
    tensor = tl.load(chunks + 2 * chunk).to(tl.int64)
    row = rows + tensor * COLUMNS
    start = tl.load(chunks + 2 * chunk + 1).to(tl.int64) * CHUNK
    length = tl.minimum(tl.load(row + 5) - start, CHUNK).to(tl.int32)
    return tensor, row, start, length


@triton.jit
def is_whole(row, length, CHUNK: tl.constexpr):
    """Whether a chunk is full and its four tensors start at multiples of 16 bytes: vectors can be read."""
    places = tl.load(row) | tl.load(row + 1) | tl.load(row + 2) | tl.load(row + 3)
    return (length == CHUNK) & (places % 16 == 0)


@triton.jit
def pointer(row, column, start, DTYPE: tl.constexpr, WHOLE):
    """To a chunk of the tensor in a column."""
    place = tl.load(row + column).to(tl.pointer_type(DTYPE)) + start  # pyright: ignore[reportArgumentType]
    if WHOLE:
        place = tl.multiple_of(place, 16)
    return place


@triton.jit
def bias_correction(row, log_beta):
    r"""Of a moment: :math:`1 - \beta^t`, exact also where :math:`\beta^t` is near 1, without float64."""
    x = tl.load(tl.load(row + 4).to(tl.pointer_type(tl.float32))) * log_beta
    series = 1 + x / 6 * (1 + x / 7 * (1 + x / 8))
    series = 1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * series)))
    return tl.where(x > -0.5, -x * series, 1 - tl.exp(x))

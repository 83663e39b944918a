"""A device type behind one interface, and the choice of a device."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, supported_activities

from athena_core._errors import AthenaError, nearest

if TYPE_CHECKING:
    from athena_core._placement import TensorSize


@dataclass(frozen=True, kw_only=True)
class DeviceCaps:
    """What one device can do, as plain data; a plugin with more to say subclasses it.

    Read from properties, never from ``name``. Sizes are in bytes, None where unknown or unlimited.

    Args:
        name: what the driver calls it, for people to read.
        arch: the architecture, such as ``"sm_90"``.
        total: memory.
        max_alloc: largest single allocation.
        integrated: it shares the host's memory.
        fp64: it holds and computes float64.
        bf16_native: bfloat16 arithmetic in hardware, emulation not counted.
        matrix_unit: it has units that multiply small matrices (tensor cores, XMX, AMX).
        channels_last: its convolutions are faster with the channels innermost in memory.

    >>> DeviceCaps(total=16 * 2**30, max_alloc=4 * 2**30 - 1, fp64=False).bf16_native
    False
    """

    name: str = ""
    arch: str = ""
    total: int | None = None
    max_alloc: int | None = None
    integrated: bool = False
    fp64: bool = True
    bf16_native: bool = False
    matrix_unit: bool = False
    channels_last: bool = False


class DeviceBackend(ABC):
    """One device type (kind ``device``). The component's name is torch's name of the type.

    What `torch.accelerator` and the type's own module (`torch.cuda`, ...) can answer is answered here;
    a backend adds its capabilities and whatever differs.

    >>> from athena_core import backend
    >>> cpu = backend("cpu")
    >>> cpu.type, cpu.available(), cpu.count()
    ('cpu', True, 1)
    """

    type: ClassVar[str]

    @abstractmethod
    def caps(self, index: int = 0) -> DeviceCaps:
        """What device ``index`` can do."""

    def available(self) -> bool:
        """Whether at least one device can be used now. Never initialises one."""
        return self.count() > 0

    def count(self) -> int:
        """How many devices of this type can be used."""
        found = torch.accelerator.current_accelerator(check_available=True)
        return torch.accelerator.device_count() if found is not None and found.type == self.type else 0

    def diagnose(self) -> list[str]:
        """What keeps this type from being used, each line with its remedy; `athena doctor` asks."""
        return []

    def notes(self) -> list[str]:
        """What is worth knowing and is nothing to mend: why there is none, where caches are; a line each."""
        return []

    def device(self, index: int | None = None) -> torch.device:
        """Device ``index`` (None: the current one), named as its tensors name it."""
        return torch.device(self.type, torch.accelerator.current_device_index() if index is None else index)

    def memory(self, index: int = 0) -> tuple[int, int] | None:
        """Bytes that are free, and bytes in all; None where the driver does not tell."""
        query = getattr(torch.accelerator, "get_memory_info", None)  # torch >= 2.10
        query = query or getattr(torch.get_device_module(self.type), "mem_get_info", None)
        try:
            return query(index) if query else None
        except RuntimeError:  # integrated GPUs (pytorch#164429)
            return None

    def activation_bytes(self, tensor: TensorSize, rows: int) -> int:
        """Estimate of what the layer that owns ``tensor`` keeps for its gradient: `activation_bytes`."""
        return activation_bytes(tensor, rows)

    def move(self, tensor: Tensor, dtype: torch.dtype, index: int | None = None) -> Tensor:
        """``tensor`` as ``dtype`` on device ``index``; cast where it lies, then transferred."""
        return tensor.to(dtype).to(self.device(index))

    def place(self, obj: Any, index: int | None = None, **options: Any) -> Any:
        """Plan and place on device ``index``: `athena_core.place` with its options."""
        from athena_core._place import place

        return place(obj, self.device(index), **options)

    def synchronize(self, index: int | None = None) -> None:
        """Wait until device ``index`` (None: the current one) has done what it was given."""
        torch.accelerator.synchronize(index)

    def empty_cache(self) -> None:
        """Give unused cached memory back to the driver."""
        torch.accelerator.empty_cache()

    def seed_all(self, seed: int) -> None:
        """Seed torch's generators: the host's, and every device's."""
        torch.manual_seed(seed)

    def rng_state(self) -> list[Tensor]:
        """The generator's state on every device of this type, in order; a checkpoint holds it."""
        module = torch.get_device_module(self.type)
        return [module.get_rng_state(index) for index in range(self.count())]

    def set_rng_state(self, states: list[Tensor]) -> None:
        """Put back what `rng_state` returned.

        Raises AthenaError where the number of devices differs.
        """
        if len(states) != self.count():
            raise AthenaError(
                f"{self.type}: the generator states are of {len(states)} devices and {self.count()} are here;"
                " resume with as many devices visible."
            )
        module = torch.get_device_module(self.type)
        for index, state in enumerate(states):
            module.set_rng_state(state, index)

    def autocast(self, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
        """Mixed precision in ``dtype``; None or float32 switches it off.

        Raises ValueError for any other dtype than bfloat16 and float16, where torch itself would
        only warn and compute in full precision (torch-xpu-ops#2680).

        >>> import torch
        >>> from athena_core import backend
        >>> with backend("cpu").autocast(torch.bfloat16):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
        """
        if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(
                f"`dtype` must be torch.bfloat16, torch.float16, torch.float32 or None; got {dtype}."
                " Convert the model itself to compute in another one."
            )
        if dtype in (None, torch.float32):
            return torch.autocast(self.type, enabled=False)
        return torch.autocast(self.type, dtype=dtype)

    def make_scaler(self, dtype: torch.dtype = torch.float16) -> torch.amp.GradScaler:
        """A gradient scaler; one that does nothing unless ``dtype`` is float16."""
        return torch.amp.GradScaler(self.type, enabled=dtype is torch.float16)

    @contextmanager
    def profile(self, folder: str | Path) -> Iterator[torch.profiler.profile]:
        """Profile what runs inside, on the host and on this type; ``folder`` then holds ``trace.json``.

        A trace that is there already is replaced. Perfetto and chrome://tracing show it.

        Raises AthenaError where torch records nothing of this type.

        >>> import tempfile, torch
        >>> from athena_core import backend
        >>> with tempfile.TemporaryDirectory() as folder, backend("cpu").profile(folder) as profiler:
        ...     product = torch.ones(8, 8) @ torch.ones(8, 8)
        >>> "aten::mm" in {event.key for event in profiler.key_averages()}
        True
        """
        activity = ProfilerActivity.__members__.get(self.type.upper())
        if activity is None or activity not in supported_activities():
            raise AthenaError(
                f"{self.type}: this torch ({torch.__version__}) records nothing of it; profile the host with"
                ' `backend("cpu").profile(folder)`.'
            )
        Path(folder).mkdir(parents=True, exist_ok=True)
        with torch.profiler.profile(activities={ProfilerActivity.CPU, activity}) as profiler:
            yield profiler
            self.synchronize()  # or the trace ends before the device does
        profiler.export_chrome_trace(str(Path(folder) / "trace.json"))

    def dist_backend(self) -> str:
        """What ``torch.distributed.init_process_group`` takes, host tensors included.

        Raises AthenaError if torch knows no collectives for this type.
        """
        import torch.distributed as dist

        name = dist.Backend.default_device_backend_map.get(self.type) if dist.is_available() else None
        if name is None:
            raise AthenaError(f"{self.type}: this torch ({torch.__version__}) has no collectives for it.")
        return name if self.type == "cpu" else f"cpu:gloo,{self.type}:{name}"


def activation_bytes(tensor: TensorSize, rows: int) -> int:
    r"""What a layer keeps for its gradient: :math:`2\,\text{rows}\cdot\text{width}\cdot\text{itemsize}`.

    ``rows`` is batch times positions, ``width`` the features of the layer's output (0 for tensors
    that are no layer's weight). Twice, because the output and what the following elementwise
    functions make of it are both kept. Attention scores are not counted: fused attention keeps none.
    Nor are strides: a network that shrinks its pictures keeps less. What was measured is taken instead.

    >>> import torch
    >>> from athena_core import TensorSize
    >>> activation_bytes(TensorSize("w", (8, 4), torch.float32, width=8), rows=16)
    1024
    """
    return 2 * rows * tensor.width * tensor.dtype.itemsize if tensor.kept is None else tensor.kept


def backend(device: str | torch.device) -> DeviceBackend:
    """The backend of a device's type, found by name through the plugins.

    Raises AthenaError for a type that no installed package has a backend for.

    >>> backend("cpu").dist_backend()
    'gloo'
    """
    kind = device.type if isinstance(device, torch.device) else device.partition(":")[0]
    return _find(kind, f"device `{device}`")


def _find(kind: str, where: str) -> DeviceBackend:
    from athena_core._host import default_host

    known = {component.name for component in default_host().components("device")}
    if kind not in known:
        raise AthenaError(f"{where}: no installed package has a backend for `{kind}`. {nearest(kind, known)}")
    return default_host().create("device", kind)


def device(request: str | torch.device = "auto") -> torch.device:
    """The device to use, with its index where its tensors have one.

    An explicit ``request``, else the environment's ``ATHENA_DEVICE``, else the plugins' choice
    (hook ``athena_select_device``), else the accelerator that torch sees, else the CPU.

    Raises AthenaError for what is malformed or not here; the CPU is never a silent replacement.

    >>> device("cpu")
    device(type='cpu')
    """
    from athena_core._host import default_host

    if str(request) != "auto":
        return _resolve(str(request), "device")
    if (wanted := os.environ.get("ATHENA_DEVICE", "auto")) not in ("", "auto"):
        return _resolve(wanted, "ATHENA_DEVICE")
    if chosen := default_host().select_device("auto", _present()):
        return _resolve(chosen, "the plugins' choice")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return _resolve(accelerator.type if accelerator is not None else "cpu", "torch.accelerator")


def _resolve(request: str, source: str) -> torch.device:
    kind, colon, index = request.partition(":")
    found = _find(kind, f"{source} `{request}`")
    if colon and not (index.isascii() and index.isdecimal()):
        raise AthenaError(f"{source} `{request}`: write `{kind}` or `{kind}:INDEX`; got index {index!r}.")
    count = found.count() if found.available() else 0
    if not count:
        raise AthenaError(
            f"{source} `{request}`: no {kind} device can be used here. There is: {', '.join(_present())}."
            f" {'; '.join([*found.notes(), *found.diagnose()]) or 'See `athena doctor`.'}"
        )
    if colon and int(index) >= count:
        raise AthenaError(
            f"{source} `{request}`: there {'is 1 device' if count == 1 else f'are {count} devices'},"
            f" {kind}:0 to {kind}:{count - 1}. {nearest(request, [f'{kind}:{i}' for i in range(count)])}"
        )
    return found.device(int(index) if colon else None)


def _present() -> list[str]:
    """Device types that can be used here; one whose backend is broken cannot."""
    from athena_core._host import default_host

    present = []
    for component in default_host().components("device"):
        try:
            if backend(component.name).available():
                present.append(component.name)
        except Exception:  # noqa: BLE001, S112  whatever a stranger's backend raises; `athena doctor` shows it
            continue
    return sorted(present)

"""The device types that the core knows: cpu, cuda (ROCm too), mps."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from athena_core._device import DeviceBackend, DeviceCaps

_INSTALL = "install the build for your driver from https://pytorch.org/get-started/locally/"


@final
class CPU(DeviceBackend):
    """The host's processor; one device, whatever its number of sockets.

    >>> CPU().device(0)
    device(type='cpu')
    """

    type: ClassVar[str] = "cpu"

    def caps(self, index: int = 0) -> DeviceCaps:  # noqa: ARG002
        query = getattr(torch.cpu, "get_capabilities", dict)  # torch >= 2.10
        has = query()
        memory = self.memory()
        return DeviceCaps(
            name=has.get("cpu_name", platform.processor()),
            arch=platform.machine(),
            total=memory[1] if memory else None,
            integrated=True,
            bf16_native=bool(has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16")),
            matrix_unit=bool(has.get("amx_bf16")),
        )

    def count(self) -> int:
        return 1

    def device(self, index: int | None = None) -> torch.device:  # noqa: ARG002
        return torch.device("cpu")

    def memory(self, index: int = 0) -> tuple[int, int] | None:  # noqa: ARG002
        """As the kernel tells; a container's own limit is not read."""
        try:
            lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        except OSError:
            return None
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return kib["MemAvailable"] * 1024, kib["MemTotal"] * 1024

    def synchronize(self, index: int | None = None) -> None:
        """Nothing to wait for."""

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def rng_state(self) -> list[Tensor]:
        return [torch.get_rng_state()]

    def set_rng_state(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])


@final
class CUDA(DeviceBackend):
    """NVIDIA GPUs, and AMD's through ROCm, which torch calls by the same name."""

    type: ClassVar[str] = "cuda"

    def caps(self, index: int = 0) -> DeviceCaps:
        found: Any = torch.cuda.get_device_properties(index)
        rocm = torch.version.hip is not None
        matrix = ("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")  # MFMA; WMMA from gfx11 on
        return DeviceCaps(
            name=found.name,
            arch=found.gcnArchName if rocm else f"sm_{found.major}{found.minor}",
            total=found.total_memory,
            integrated=bool(found.is_integrated),
            bf16_native=found.gcnArchName.startswith(matrix) if rocm else found.major >= 8,
            matrix_unit=found.gcnArchName.startswith(matrix) if rocm else found.major >= 7,
        )

    def diagnose(self) -> list[str]:
        if self.available() or not shutil.which("nvidia-smi"):
            return []
        if torch.version.cuda is None:
            return [f"an NVIDIA driver is here, but torch {torch.__version__} is without CUDA: {_INSTALL}."]
        return ["torch sees no CUDA device: look at `nvidia-smi` and the environment's CUDA_VISIBLE_DEVICES."]


@final
class MPS(DeviceBackend):
    """Apple GPUs; they hold no float64."""

    type: ClassVar[str] = "mps"

    def caps(self, index: int = 0) -> DeviceCaps:  # noqa: ARG002
        return DeviceCaps(
            name=f"Apple GPU ({platform.machine()})",
            arch="metal",
            total=torch.mps.recommended_max_memory(),
            integrated=True,
            fp64=False,
        )

    def memory(self, index: int = 0) -> tuple[int, int] | None:  # noqa: ARG002
        total = torch.mps.recommended_max_memory()
        return max(0, total - torch.mps.driver_allocated_memory()), total

    def diagnose(self) -> list[str]:
        if self.available() or sys.platform != "darwin" or platform.machine() != "arm64":
            return []
        return ["torch sees no Apple GPU: it needs macOS 14 or newer and an arm64 build of Python."]

"""A fake of `torch.xpu`: properties as data, and transfers that keep their tensors on the host.

Properties are what torch 2.13 tells on such a machine; those of the A770 and the B580 are from public
reports, those of the processors' GPUs from SYCL's and the driver's public tables.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from athena_xpu import _diagnosis, _host_gpus
from athena_xpu._diagnosis import Installed
from athena_xpu._host_gpus import HostGPU

GIB = 2**30
COMMON = {
    "platform_name": "Intel(R) oneAPI Unified Runtime over Level-Zero",
    "vendor": "Intel(R) Corporation",
    "driver_version": "1.6.33578+51",
    "type": "gpu",
    "max_work_group_size": 1024,
    "has_fp16": True,
    "has_atomic64": True,
}
XE_HPG = {"max_num_sub_groups": 128, "sub_group_sizes": [8, 16, 32], "local_mem_size": 65536}
XE2 = {"max_num_sub_groups": 64, "sub_group_sizes": [16, 32], "local_mem_size": 131072}


def _flags(*, bf16: bool, matrix: bool, blocks: bool) -> dict[str, bool]:
    return {
        "has_bfloat16_conversions": bf16,
        "has_subgroup_matrix_multiply_accumulate": matrix,
        "has_subgroup_matrix_multiply_accumulate_tensor_float32": blocks,
        "has_subgroup_2d_block_io": blocks,
    }


PROPERTIES: dict[str, dict[str, Any]] = {
    "alchemist": {
        **COMMON,
        **XE_HPG,
        **_flags(bf16=True, matrix=True, blocks=False),
        "name": "Intel(R) Arc(TM) A770 Graphics",
        "device_id": 0x56A0,
        "architecture": 0x030DC00800,
        "is_integrated_gpu": False,
        "total_memory": 16225243136,
        "has_fp64": False,
    },
    "battlemage": {
        **COMMON,
        **XE2,
        **_flags(bf16=True, matrix=True, blocks=True),
        "name": "Intel(R) Graphics [0xe20b]",
        "device_id": 0xE20B,
        "architecture": 0x0500400400,
        "is_integrated_gpu": False,
        "total_memory": 12168933376,
        "has_fp64": True,
    },
    "meteor_lake": {
        **COMMON,
        **XE_HPG,
        **_flags(bf16=False, matrix=False, blocks=False),
        "name": "Intel(R) Arc(TM) Graphics",
        "device_id": 0x7D55,
        "architecture": 0x0311C00400,
        "is_integrated_gpu": True,
        "total_memory": 30 * GIB,
        "has_fp64": True,
    },
    "lunar_lake": {
        **COMMON,
        **XE2,
        **_flags(bf16=True, matrix=True, blocks=True),
        "name": "Intel(R) Arc(TM) 140V GPU",
        "device_id": 0x64A0,
        "architecture": 0x0501000400,
        "is_integrated_gpu": True,
        "total_memory": 30 * GIB,
        "has_fp64": True,
    },
}


def properties(arch: str, *, without: tuple[str, ...] = (), **changes: Any) -> SimpleNamespace:
    """What torch tells of one; ``without`` what an older torch does not tell."""
    told = {**PROPERTIES[arch], **changes}
    return SimpleNamespace(**{name: value for name, value in told.items() if name not in without})


XPU_BUILD = Installed(
    torch="2.13.0+xpu",
    built=True,
    other=False,
    distributions=frozenset({"torch", "triton-xpu"}),
    triton_backends=frozenset({"intel"}),
)


class FakeXPU:
    """Installs itself into torch for the length of a test; ``log`` holds what was asked of the device.

    ``have`` and ``gpus`` are what the doctor finds installed, and on the host.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, devices: list[SimpleNamespace]) -> None:
        self.devices = devices
        self.log: list[Any] = []
        self.free: int | None = None  # as the driver tells it; None: it tells nothing
        self.room = 1 << 60  # what one transfer may take
        self.forked = False
        self.current = 0
        self.states = [torch.zeros(1) for _ in devices]
        self.have = XPU_BUILD
        self.gpus: list[HostGPU] = []
        self._patch(monkeypatch, _diagnosis, installed=lambda: self.have)
        self._patch(monkeypatch, _host_gpus, host_gpus=lambda: self.gpus, looks_for_gpus=lambda: True)
        there = torch.device("xpu")
        self._patch(
            monkeypatch,
            torch.xpu,
            device_count=lambda: len(self.devices),
            current_device=lambda: self.current,
            get_device_properties=lambda index: self.devices[index],
            mem_get_info=self._memory,
            get_rng_state=lambda index: self.states[index],
            set_rng_state=lambda state, index: self.states.__setitem__(index, state),
            manual_seed_all=self._logged("seed"),
            _is_in_bad_fork=lambda: self.forked,
        )
        self._patch(
            monkeypatch,
            torch.accelerator,
            current_accelerator=lambda check_available=False: there if self.devices else None,
            device_count=lambda: len(self.devices),
            current_device_index=lambda: self.current,
            get_memory_info=self._memory,
            synchronize=self._logged("synchronize"),
            empty_cache=self._logged("empty_cache"),
        )

    @staticmethod
    def _patch(monkeypatch: pytest.MonkeyPatch, owner: Any, **values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setattr(owner, name, value, raising=False)

    def _logged(self, what: str) -> Callable[..., None]:
        return lambda *args: self.log.append((what, *args))

    def _memory(self, index: int) -> tuple[int, int]:
        if self.free is None:
            raise RuntimeError("The device does not support querying the available free memory.")
        return self.free, self.devices[index].total_memory


class Transfers(TorchFunctionMode):
    """Under it, tensors go to ``xpu`` in name only; what the driver would refuse is refused."""

    def __init__(self, fake: FakeXPU) -> None:
        super().__init__()
        self.fake = fake

    def __torch_function__(self, func, types, args=(), kwargs=None):
        target = next((a for a in args[1:] if isinstance(a, torch.device) and a.type == "xpu"), None)
        if func is not torch.Tensor.to or target is None:
            return func(*args, **(kwargs or {}))
        tensor = args[0]
        self.fake.log.append(("to", tensor.dtype, target.index))
        if tensor.dtype == torch.float64 and not self.fake.devices[target.index or 0].has_fp64:
            raise RuntimeError("Required aspect fp64 is not supported on the device")
        if tensor.nbytes > self.fake.room:
            raise torch.OutOfMemoryError(f"XPU out of memory. Tried to allocate {tensor.nbytes} bytes.")
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)

"""Device types for tests: numbers of one's own, no hardware."""

from __future__ import annotations

from typing import ClassVar

import torch

from athena_core import Component, DeviceBackend, DeviceCaps, hookimpl


class Meta(DeviceBackend):
    """torch's meta device as an accelerator without float64."""

    type = "meta"
    free: ClassVar[int] = 2**40

    def caps(self, index=0):
        return DeviceCaps(fp64=False, max_alloc=2**30)

    def count(self):
        return 1

    def device(self, index=None):
        return torch.device("meta")

    def memory(self, index=0):
        return self.free, 2**40


class Broken(DeviceBackend):
    type = "vulkan"

    def caps(self, index=0):
        return DeviceCaps()

    def available(self):
        raise RuntimeError("driver version mismatch")


class Eager:
    """A plugin that offers both, and prefers one."""

    def __init__(self, choice=None):
        self.choice = choice

    @hookimpl
    def athena_components(self):
        return [
            Component("device", "meta", "fake_devices:Meta", "shapes alone"),
            Component("device", "vulkan", "fake_devices:Broken", "raises when asked"),
        ]

    @hookimpl
    def athena_select_device(self, request, candidates):
        return self.choice


def limit(monkeypatch, **caps):
    """Let the host stand for a device with these capabilities."""
    monkeypatch.setattr("athena_core._backends.CPU.caps", lambda self, index=0: DeviceCaps(**caps))

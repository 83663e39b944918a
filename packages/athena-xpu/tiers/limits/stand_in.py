"""What torch and Athena ask of a device beside its tensors, for the stand-in of `athena_xpu.ArcLimits`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from athena_core import Component, DeviceBackend, DeviceCaps, default_host, hookimpl
from athena_optim import _buckets
from athena_xpu import ARCHITECTURES

HOST_GENERATOR = torch.Generator


class Generator(HOST_GENERATOR):
    """The host's stands for the device's, for which torch has none."""

    asked: torch.device

    def __new__(cls, device: Any = "cpu") -> Generator:
        asked = torch.device(device)
        made = super().__new__(cls, "cpu" if asked.type == "meta" else asked)
        made.asked = asked
        return made

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.asked


class StandIn(DeviceBackend):
    """A backend for ``meta``: one card of the A series, without mixed precision."""

    type: ClassVar[str] = "meta"

    def caps(self, index: int = 0) -> DeviceCaps:
        return ARCHITECTURES["alchemist"]

    def count(self) -> int:
        return 1

    def device(self, index: int | None = None) -> torch.device:
        return torch.device("meta")

    def memory(self, index: int = 0) -> tuple[int, int] | None:
        return None

    def synchronize(self, index: int | None = None) -> None:
        """Nothing to wait for."""

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def rng_state(self) -> list[Tensor]:
        return []

    def set_rng_state(self, states: list[Tensor]) -> None:
        assert not states

    def autocast(self, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
        assert dtype in (None, torch.float32, torch.bfloat16, torch.float16)
        return nullcontext()


class Plugin:
    """Offers the stand-in."""

    @hookimpl
    def athena_components(self) -> list[Component]:
        return [Component("device", "meta", "stand_in:StandIn", "A card of the A series, on the host")]


def install() -> None:
    """Have torch and the packages take the ways that they take on ``xpu``."""
    torch.Generator = Generator  # the packages name it where they use it
    torch._register_device_module("meta", _device_module())
    torch.accelerator.synchronize = lambda device=None: None
    _buckets.FUSED_DEVICES |= {"meta"}
    for name in ("_get_fused_kernels", "_get_foreach_kernels", "_get_capturable"):
        _add_meta(f"{name}_supported_devices")
    default_host().register(Plugin(), "stand-in")


def _add_meta(name: str) -> None:
    """Have a function of torch's optimizers list ``meta`` wherever it lists ``xpu``."""
    modules = [module for key, module in sys.modules.items() if key.startswith("torch.optim")]
    for module in modules:
        if (known := getattr(module, name, None)) is not None:
            setattr(module, name, lambda *args, _known=known, **kwargs: [*_known(*args, **kwargs), "meta"])


def _device_module() -> ModuleType:
    """What `torch.random.fork_rng` asks a device type's module for."""
    module = ModuleType("torch.meta")
    module.device_count = lambda: 1  # pyright: ignore[reportAttributeAccessIssue]
    module.get_rng_state = lambda device=None: torch.get_rng_state()
    module.set_rng_state = lambda state, device=None: None
    module.manual_seed = lambda seed: None
    sys.modules[module.__name__] = module
    return module

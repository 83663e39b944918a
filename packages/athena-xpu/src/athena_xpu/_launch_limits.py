"""Whether a device can run a kernel as it would be launched, told on the CPU before it is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from athena_xpu._caps import XPUCaps

C = TypeVar("C")

_MOST_WARPS_OF_LARGE_GRF = 32  # what the driver admits with 256 registers, whatever the architecture


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How one kernel of Triton is launched.

    Args:
        num_warps: sub-groups in a work-group.
        warp_size: work-items in a sub-group.
        num_stages: stages of the kernel's software pipeline, each with its own buffers.
        shared: shared local memory of one stage, in bytes.
        grf_mode: registers a hardware thread: ``"128"``, ``"256"``, or the compiler's choice.

    Raises ValueError if a size is below 1 (``shared``: 0) or no power of two (``num_warps``, ``warp_size``).

    >>> LaunchConfig(num_warps=8).warp_size
    32
    """

    num_warps: int = 4
    warp_size: int = 32
    num_stages: int = 1
    shared: int = 0
    grf_mode: Literal["default", "128", "256"] = "default"

    def __post_init__(self) -> None:
        for name in ("num_warps", "warp_size"):
            size = getattr(self, name)
            if size < 1 or size & (size - 1):
                raise ValueError(f"`{name}` must be a power of two; got {size}.")
        for name, least in (("num_stages", 1), ("shared", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}; got {getattr(self, name)}.")


def launch_faults(config: LaunchConfig, caps: XPUCaps) -> list[str]:
    """Say why a device cannot run a kernel so launched; nothing where it can. Unknown limits refuse nothing.

    >>> from athena_xpu import ARCHITECTURES
    >>> launch_faults(LaunchConfig(num_warps=64, warp_size=16, grf_mode="256"), ARCHITECTURES["battlemage"])
    ['`num_warps` must be at most 32 with 256 registers a thread; got 64']
    """
    faults = []
    if caps.sub_group_sizes and config.warp_size not in caps.sub_group_sizes:
        sizes = ", ".join(map(str, caps.sub_group_sizes))
        faults.append(f"`warp_size` must be one of {sizes}; got {config.warp_size}")
    if config.grf_mode == "256" and config.num_warps > _MOST_WARPS_OF_LARGE_GRF:
        faults.append(
            f"`num_warps` must be at most {_MOST_WARPS_OF_LARGE_GRF} with 256 registers a thread; "
            f"got {config.num_warps}"
        )
    if caps.max_sub_groups is not None and config.num_warps > caps.max_sub_groups:
        faults.append(f"`num_warps` must be at most {caps.max_sub_groups}; got {config.num_warps}")
    items = config.num_warps * config.warp_size
    if caps.max_work_group is not None and items > caps.max_work_group:
        faults.append(
            f"`num_warps` x `warp_size` must be at most {caps.max_work_group}; "
            f"got {config.num_warps} x {config.warp_size}"
        )
    needed = config.shared * config.num_stages
    if caps.slm is not None and needed > caps.slm:
        faults.append(
            f"`shared` x `num_stages` must be at most {caps.slm} bytes; "
            f"got {config.shared} x {config.num_stages}"
        )
    return faults


def validate_launch(config: LaunchConfig, caps: XPUCaps) -> None:
    """Check that a device can run a kernel so launched.

    Source of the limits: the device's properties; 32 sub-groups with 256 registers a thread is the
    driver's (intel-xpu-backend-for-triton).

    Raises ValueError with all of `launch_faults`.

    >>> from athena_xpu import ARCHITECTURES
    >>> validate_launch(LaunchConfig(num_warps=32, shared=64 * 1024), ARCHITECTURES["alchemist"])
    >>> try:
    ...     validate_launch(LaunchConfig(shared=48 * 1024, num_stages=2), ARCHITECTURES["alchemist"])
    ... except ValueError as error:
    ...     print(error)
    `shared` x `num_stages` must be at most 65536 bytes; got 49152 x 2. Launch it smaller.
    """
    faults = launch_faults(config, caps)
    if faults:
        raise ValueError(f"{'; '.join(faults)}. Launch it smaller.")


def fitting(configs: Iterable[C], caps: XPUCaps, *, shared: Callable[[C], int] = lambda _: 0) -> list[C]:
    """Keep the configurations for autotuning that a device can run, in their order.

    Args:
        configs: of `triton.Config`, or alike: with ``num_warps``, ``num_stages`` and ``kwargs``, among
            which may be ``warp_size`` and ``grf_mode``.
        caps: of the device.
        shared: from a configuration, the shared local memory of one stage in bytes.

    Raises ValueError if none fits, with what the last of them exceeds.

    >>> from types import SimpleNamespace
    >>> from athena_xpu import ARCHITECTURES
    >>> configs = [SimpleNamespace(num_warps=n, num_stages=2, kwargs={"grf_mode": "256"}) for n in (16, 64)]
    >>> [config.num_warps for config in fitting(configs, ARCHITECTURES["battlemage"])]
    [16]
    """
    kept, faults = [], ["there is none"]
    for config in configs:
        found = launch_faults(_described(config, shared(config)), caps)
        if found:
            faults = found
        else:
            kept.append(config)
    if not kept:
        raise ValueError(
            f"`configs` must hold one that fits the device; {'; '.join(faults)}. Add a smaller one."
        )
    return kept


def _described(config: Any, shared: int) -> LaunchConfig:
    named = {name: config.kwargs[name] for name in ("warp_size", "grf_mode") if name in config.kwargs}
    return LaunchConfig(num_warps=config.num_warps, num_stages=config.num_stages, shared=shared, **named)

"""Intel GPUs as the operating system tells of them, whatever torch can see."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

# First byte of PCI's device number of the GPUs that torch.xpu is built for; older graphics are left out.
_BUILT_FOR = {
    0x0B: "Ponte Vecchio",
    0x4F: "Alchemist",
    0x56: "Alchemist",
    0x64: "Lunar Lake",
    0x7D: "Meteor Lake or Arrow Lake",
    0xB0: "Panther Lake",
    0xE2: "Battlemage",
}


@dataclass(frozen=True)
class HostGPU:
    """An Intel GPU that torch.xpu could use.

    Args:
        device_id: PCI's number of the product.
        node: its file under ``/dev/dri``; None where the kernel made none, as in many containers.
        openable: whether this user may read and write ``node``.
        group: whose members may; empty where unknown.
    """

    device_id: int
    node: Path | None
    openable: bool
    group: str = ""

    def __str__(self) -> str:
        return f"{_BUILT_FOR[self.device_id >> 8]} (device 0x{self.device_id:04X})"


def looks_for_gpus() -> bool:
    """Whether this operating system is asked at all."""
    return sys.platform == "linux"


def host_gpus(root: Path = Path("/")) -> list[HostGPU]:
    """Intel GPUs under ``sys/class/drm`` of ``root``, in the kernel's order.

    >>> from athena_xpu._host_gpus import host_gpus
    >>> host_gpus(Path("/no/such/folder"))
    []
    """
    found = []
    for node in sorted((root / "sys/class/drm").glob("renderD*")):
        try:
            vendor = int((node / "device/vendor").read_text("ascii"), 16)
            device_id = int((node / "device/device").read_text("ascii"), 16)
        except (OSError, ValueError):  # no PCI device, as on boards with their own GPU
            continue
        if vendor == 0x8086 and device_id >> 8 in _BUILT_FOR:
            found.append(_opened(device_id, root / "dev/dri" / node.name))
    return found


def _opened(device_id: int, node: Path) -> HostGPU:
    if not node.exists():
        return HostGPU(device_id, None, openable=False)
    return HostGPU(device_id, node, os.access(node, os.R_OK | os.W_OK), _group(node))


def _group(node: Path) -> str:
    """The group that may open ``node``, if its mode says that a group may."""
    import grp

    status = node.stat()
    if not status.st_mode & stat.S_IWGRP:
        return ""
    try:
        return grp.getgrgid(status.st_gid).gr_name
    except KeyError:  # made outside this container
        return str(status.st_gid)

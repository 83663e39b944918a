"""What `athena doctor` says of Intel GPUs: what keeps them from being used, and what is worth knowing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from ctypes.util import find_library
from dataclasses import dataclass
from importlib.metadata import distributions, entry_points
from pathlib import Path

from athena_xpu._host_gpus import HostGPU

INDEX = "https://download.pytorch.org/whl/xpu"
INSTALL = f"pip install --force-reinstall torch --index-url {INDEX}"
_TRITONS = ("triton", "triton-xpu", "pytorch-triton", "pytorch-triton-xpu", "triton-windows")
_DRIVER = "sudo apt install libze1 libze-intel-gpu1 intel-opencl-icd (Ubuntu)"


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What is installed, as plain data.

    Args:
        torch: its version.
        built: it was built with XPU.
        other: it was built for another accelerator.
        distributions: normalized names of all installed ones.
        triton_backends: those that the Triton here can compile for.
    """

    torch: str
    built: bool
    other: bool
    distributions: frozenset[str]
    triton_backends: frozenset[str]


def installed() -> Installed:
    """What is installed here; read from metadata, as a distribution's name is no module's."""
    import torch

    names = (found.metadata["Name"] for found in distributions())
    return Installed(
        torch=str(torch.__version__),
        built=getattr(torch.version, "xpu", None) is not None,
        other=bool(torch.version.cuda or torch.version.hip),
        distributions=frozenset(name.lower().replace("_", "-") for name in names if name),
        triton_backends=frozenset(entry.name for entry in entry_points(group="triton.backends")),
    )


def build_problems(have: Installed, gpus: Sequence[HostGPU]) -> Iterator[str]:
    """What is wrong with the installed distributions; pure."""
    if gpus and not have.built and not have.other:
        lost = have.distributions & {"triton-xpu", "pytorch-triton-xpu", "intel-sycl-rt", "dpcpp-cpp-rt"}
        how = ", which another installation put in place of the XPU build (pytorch#150260)" if lost else ""
        yield f"{gpus[0]} is here, but torch {have.torch} is without XPU{how}: {INSTALL}"
    tritons = sorted(have.distributions.intersection(_TRITONS))
    if len(tritons) > 1:
        yield (
            f"{' and '.join(tritons)} both install the module `triton`, one over the other:"
            f" pip uninstall -y {' '.join(tritons)} && {INSTALL}"
        )
    elif have.built and tritons and "intel" not in have.triton_backends:
        yield (
            f"{tritons[0]} cannot compile for Intel GPUs, so kernels give way to their references:"
            f" pip uninstall -y {tritons[0]} && {INSTALL}"
        )
    if "intel-extension-for-pytorch" in have.distributions:
        yield (
            "intel-extension-for-pytorch, no longer developed, replaces parts of torch.xpu:"
            " pip uninstall -y intel-extension-for-pytorch"
        )


def driver_problems(gpus: Sequence[HostGPU], *, hidden: bool, failure: str = "") -> Iterator[str]:
    """Why torch's XPU build sees none of the GPUs that the host has; the first reason alone.

    Args:
        gpus: those of the host.
        hidden: environment variables hide them, which is told elsewhere.
        failure: what torch raised when it was asked.
    """
    if not gpus or hidden:
        return
    shut = [gpu for gpu in gpus if gpu.node is not None and not gpu.openable]
    if all(gpu.node is None for gpu in gpus):
        yield f"{gpus[0]} has no node under /dev/dri; start the container with: docker run --device /dev/dri"
    elif shut:
        group = shut[0].group or "render"
        yield (
            f"{shut[0].node} may not be opened by this user:"
            f" sudo usermod -aG {group} $USER, then log in again"
        )
    elif find_library("ze_intel_gpu") is None:
        yield f"{gpus[0]} is here, but no Level Zero driver for it: {_DRIVER}"
    else:
        how = f"raises `{failure}`" if failure else "sees none"
        yield f"{gpus[0]} and its driver are here, but torch {how}; the driver may be too old: {_DRIVER}"


def absence_notes(have: Installed, gpus: Sequence[HostGPU], *, looked: bool) -> list[str]:
    """Why there is no such device, where nothing is wrong; pure.

    Args:
        gpus: those of the host.
        looked: whether the host was asked for any.
    """
    if have.other and not have.built and gpus:
        return [f"{gpus[0]} is here; torch {have.torch} is built for another accelerator. For it: {INSTALL}"]
    if gpus:
        return []
    seen = "no Intel GPU is seen here" if looked else f"on {sys.platform} nobody looks whether a GPU is here"
    if have.built:
        return [f"torch {have.torch} is built with XPU; {seen}. Its driver: {_DRIVER}"]
    return [f"torch {have.torch} is built without XPU; {seen}. For one: {INSTALL}"]


def cache_notes(environ: Mapping[str, str] = os.environ, home: Path | None = None) -> list[str]:
    """What the first run costs and where its results are kept; pure but for the home folder."""
    home = home or Path.home()
    general = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    if sys.platform == "win32":
        general = Path(environ.get("LOCALAPPDATA") or home / "AppData/Local") / "NEO"
    triton = environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache"
    driver = environ.get("NEO_CACHE_DIR") or general / "neo_compiler_cache"
    kept = environ.get("NEO_CACHE_PERSISTENT", "1") != "0"
    return [
        "the first run of each kernel compiles it, for up to a minute in all (torch-xpu-ops#1512)",
        f"compiled kernels are kept in {triton} (Triton)"
        + (f" and {driver} (driver)" if kept else "; NEO_CACHE_PERSISTENT=0 keeps none of the driver's"),
    ]

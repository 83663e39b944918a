"""The limits of an Intel GPU, asked before a kernel is launched: once for each number of warps."""

from __future__ import annotations

from functools import cache

from athena_core import KernelFailed, backend
from athena_xpu._caps import XPUCaps
from athena_xpu._launch_limits import LaunchConfig, launch_faults


@cache
def _caps(index: int) -> XPUCaps:
    found = backend("xpu").caps(index)
    return found if isinstance(found, XPUCaps) else XPUCaps()  # another plugin's backend: nothing is known


@cache
def check_launch(index: int, num_warps: int) -> None:
    """Raise KernelFailed where Intel GPU ``index`` cannot run a kernel with so many warps.

    What a kernel needs of local memory is known once it is compiled; Triton compares it itself.
    """
    faults = launch_faults(LaunchConfig(num_warps=num_warps), _caps(index))
    if faults:
        raise KernelFailed("; ".join(faults))

"""Environment variables that Intel's driver, its runtime, torch and Triton read; names are easily missed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

RELAXED = "UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS"
SELECTOR = "ONEAPI_DEVICE_SELECTOR"
MASK = "ZE_AFFINITY_MASK"

# What each must be; None: anything.
_VALUES: dict[str, tuple[str, ...] | None] = {
    RELAXED: ("0", "1"),
    SELECTOR: None,
    MASK: None,
    "ZE_FLAT_DEVICE_HIERARCHY": ("COMPOSITE", "FLAT", "COMBINED"),
    "ZES_ENABLE_SYSMAN": ("0", "1"),
    "PYTORCH_ENABLE_XPU_FALLBACK": ("0", "1"),
    "PYTORCH_DEBUG_XPU_FALLBACK": ("0", "1"),
    "SYCL_CACHE_PERSISTENT": ("0", "1"),
    "SYCL_CACHE_DIR": None,
    "NEO_CACHE_PERSISTENT": ("0", "1"),
    "NEO_CACHE_DIR": None,
    "TRITON_CACHE_DIR": None,
    "TRITON_INTERPRET": None,
}
# Others that are read, so that they are not taken for one of the above misspelt.
_ALSO_READ = {
    *("SYCL_CACHE_IN_MEM", "SYCL_CACHE_TRACE", "SYCL_CACHE_MAX_SIZE", "SYCL_CACHE_THRESHOLD"),
    *("SYCL_CACHE_DISABLE_PERSISTENT", "SYCL_CACHE_EVICTION_DISABLE", "NEO_CACHE_MAX_SIZE"),
    *("TRITON_CACHE_MANAGER", "TRITON_CACHE_AUTOTUNING", "TRITON_DUMP_DIR", "TRITON_HOME"),
    *("ZE_ENABLE_PCI_ID_DEVICE_ORDER", "ZE_ENABLE_TRACING_LAYER", "ZES_ENABLE_SYSMAN_LOW_POWER"),
}
# Names that were read once, and what is read now.
_REPLACED = {
    "SYCL_DEVICE_FILTER": SELECTOR,
    "SYCL_BE": SELECTOR,
    "UR_L0_USE_RELAXED_ALLOCATION_LIMITS": RELAXED,  # never read, but advised (ipex#863)
}


def relaxed_limits(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the driver allows allocations of any size: the variable counts only if Python began with it.

    The runtime reads it while torch is imported, so a value that is set later changes nothing.

    >>> from athena_xpu._variables import relaxed_limits
    >>> relaxed_limits({"UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS": "1"})
    True
    """
    return (began_with() if environ is None else environ).get(RELAXED, "0") == "1"


def began_with() -> Mapping[str, str]:
    """The environment that this process began with; the present one where the system does not tell it."""
    try:
        block = Path("/proc/self/environ").read_bytes()
    except OSError:
        return os.environ
    pairs = (entry.partition(b"=") for entry in block.split(b"\0") if b"=" in entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def variable_problems(
    environ: Mapping[str, str], *, began: Mapping[str, str], gpus: int | None, wanted: bool
) -> Iterator[str]:
    """What is wrong with the variables, a line each with its remedy; pure.

    Args:
        environ: the present environment.
        began: that which the process began with.
        gpus: how many Intel GPUs the host has; None where it was not asked.
        wanted: whether computing on them is meant.
    """
    yield from _misspelt(environ)
    for name, allowed in _VALUES.items():
        value = environ.get(name)
        if value is not None and allowed is not None and value not in allowed:
            yield f"{name}={value} is not understood: export {name}={' or '.join(allowed)}"
    if environ.get(RELAXED) in ("0", "1") and environ[RELAXED] != began.get(RELAXED):
        yield (
            f"{RELAXED} was set after Python began, and is read while torch is imported:"
            f" export {RELAXED}={environ[RELAXED]} before the command."
        )
    folder = environ.get("NEO_CACHE_DIR")
    if folder and not Path(folder).is_dir():
        yield f"NEO_CACHE_DIR={folder} is no folder, so the driver caches nothing: mkdir -p {folder}"
    if wanted and environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes"):
        yield "TRITON_INTERPRET is set, so kernels run in Python on the host: unset TRITON_INTERPRET"
    yield from _hidden(environ, gpus)


def _misspelt(environ: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(environ):
        if name in _VALUES or name in _ALSO_READ:
            continue
        if name in _REPLACED:
            yield f"{name} is not read, or no more; {_REPLACED[name]} is: unset {name}"
        elif meant := get_close_matches(name.upper(), _VALUES, n=1, cutoff=0.85):
            yield f"{name} is read by nothing; is {meant[0]} meant? export {meant[0]}={environ[name]}"


def _hidden(environ: Mapping[str, str], gpus: int | None) -> Iterator[str]:
    """Selections that leave torch no GPU."""
    selector, mask = environ.get(SELECTOR), environ.get(MASK)
    if selector and (fault := _selector_fault(selector)):
        yield f"{SELECTOR}={selector}: {fault}: export {SELECTOR}=level_zero:gpu"
    if not mask:
        return
    parts = [part.strip() for part in mask.split(",")]
    if not all(re.fullmatch(r"[0-9]+(\.[0-9]+)?", part) for part in parts):
        yield f"{MASK}={mask} must be numbers of devices, as in 0 or 0,1: unset {MASK}"
    elif gpus is not None and gpus and all(int(part.partition(".")[0]) >= gpus for part in parts):
        has = "there is 1 GPU, 0" if gpus == 1 else f"there are {gpus} GPUs, 0 to {gpus - 1}"
        yield f"{MASK}={mask} hides every device; {has}: unset {MASK}"


def _selector_fault(selector: str) -> str:
    """Why torch, which uses level_zero alone, sees no GPU under this selector; empty if it does."""
    shown, hidden = [], []
    for term in filter(None, (part.strip().lower() for part in selector.split(";"))):
        backend, colon, devices = term.removeprefix("!").partition(":")
        if not colon or not devices:
            return f"`{term}` is not BACKEND:DEVICES"
        ours = backend in ("*", "level_zero")
        whole = any(one in ("*", "gpu") for one in devices.split(","))
        if term.startswith("!"):
            hidden.append(ours and whole)
        else:
            shown.append(ours and (whole or any(one[:1].isdecimal() for one in devices.split(","))))
    if any(hidden) or (shown and not any(shown)):
        return "it leaves out level_zero's GPUs, and torch uses no others"
    return ""

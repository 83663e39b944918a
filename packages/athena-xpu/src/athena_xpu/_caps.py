"""What an Intel GPU can do, read from the properties that torch tells, never from its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from athena_core import DeviceCaps

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class XPUCaps(DeviceCaps):
    """What one Intel GPU can do: `athena_core.DeviceCaps`, and what kernels ask beyond it.

    Args:
        driver: its version.
        device_id: PCI's number of the product, such as ``0xE20B``; None where torch does not tell.
        fp16: it computes float16.
        channels_last: true, as oneDNN's convolutions here need no reordering of such inputs.
        int8_dot: it has instructions for sums of products of int8, in the matrix unit or outside.
        block_io_2d: it loads and stores two-dimensional blocks (what Triton's block pointers become).
        atomic64: it has atomics on 64 bits.
        slm: shared local memory of one work-group, in bytes; None where unknown.
        sub_group_sizes: sizes that a kernel may ask for.
        max_sub_groups: sub-groups (Triton's warps) in one work-group; None where unknown.
        max_work_group: work-items in one work-group; None where unknown.

    >>> from athena_xpu import ARCHITECTURES
    >>> card = ARCHITECTURES["alchemist"]
    >>> card.fp64, card.matrix_unit, card.block_io_2d, card.max_alloc == 4 * 2**30 - 1
    (False, True, False, True)
    """

    channels_last: bool = True
    driver: str = ""
    device_id: int | None = None
    fp16: bool = True
    int8_dot: bool = False
    block_io_2d: bool = False
    atomic64: bool = False
    slm: int | None = None
    sub_group_sizes: tuple[int, ...] = ()
    max_sub_groups: int | None = None
    max_work_group: int | None = None


_XE_HPG = XPUCaps(  # the core of the A series and, without its matrix unit, of Meteor Lake
    max_alloc=4 * GIB - 1,  # buffers are addressed by 32-bit offsets (compute-runtime#627)
    int8_dot=True,
    atomic64=True,
    slm=64 * 1024,
    sub_group_sizes=(8, 16, 32),
    max_sub_groups=128,
    max_work_group=1024,
)
_XE2 = XPUCaps(
    bf16_native=True,
    matrix_unit=True,
    int8_dot=True,
    block_io_2d=True,
    atomic64=True,
    slm=128 * 1024,
    sub_group_sizes=(16, 32),
    max_sub_groups=64,
    max_work_group=1024,
)

#: Planning for a card that is not at hand, by architecture. `total` is the largest common product's.
ARCHITECTURES: Mapping[str, XPUCaps] = MappingProxyType(
    {
        "alchemist": replace(
            _XE_HPG, arch="alchemist", total=16 * GIB, fp64=False, bf16_native=True, matrix_unit=True
        ),
        "battlemage": replace(_XE2, arch="battlemage", total=12 * GIB),
        "meteor_lake": replace(_XE_HPG, arch="meteor_lake", total=16 * GIB, integrated=True),
        "lunar_lake": replace(_XE2, arch="lunar_lake", total=16 * GIB, integrated=True),
    }
)

# (major, release) of the graphics IP's version, which SYCL's architecture number carries
# (sycl_ext_oneapi_device_architecture: the byte AA is 00 for Intel's GPUs, then CCCCCCCC is the version).
_VERSIONS = {
    (12, 55): "alchemist",
    (12, 56): "alchemist",
    (12, 57): "alchemist",
    (12, 70): "meteor_lake",
    (12, 71): "meteor_lake",
    (20, 1): "battlemage",
    (20, 2): "battlemage",
    (20, 4): "lunar_lake",
}
_HPC = (12, 60), (12, 61)  # Ponte Vecchio: the only ones before Xe2 that address buffers by 64 bits


def caps_of(properties: Any, *, relaxed: bool = False) -> XPUCaps:
    """Capabilities from what ``torch.xpu.get_device_properties`` returns; pure, and the name says nothing.

    What an older torch does not tell is taken from the architecture's data. So are the matrix unit,
    two-dimensional block loads and native bfloat16 where they are denied: torch asks a library of the
    driver's compiler for them and takes its absence for a no (pytorch#196074). Emulated bfloat16 is
    not native.

    Args:
        properties: torch's, or anything with the same attributes, of which any may be missing.
        relaxed: the driver was told to allow any allocation (UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS).

    Source: none.

    >>> from types import SimpleNamespace
    >>> from athena_xpu import caps_of
    >>> told = SimpleNamespace(name="Graphics [0xe20b]", architecture=0x0000000500400400, has_fp64=True)
    >>> caps_of(told).arch, caps_of(told).matrix_unit
    ('battlemage', True)
    """
    version = _version(properties)
    arch = _VERSIONS.get(version, "") if version else _inferred(properties)
    known = ARCHITECTURES.get(arch, XPUCaps())
    total = getattr(properties, "total_memory", None)
    limited = not relaxed and _is_limited(version, known, properties)
    matrix = known.matrix_unit or _has(properties, "has_subgroup_matrix_multiply_accumulate")
    return replace(
        known,
        name=getattr(properties, "name", ""),
        arch=arch or (f"intel_gpu_{version[0]}_{version[1]}" if version else ""),
        driver=getattr(properties, "driver_version", ""),
        device_id=getattr(properties, "device_id", None),
        total=total,
        max_alloc=min(filter(None, (4 * GIB - 1, total))) if limited else None,
        integrated=bool(getattr(properties, "is_integrated_gpu", known.integrated)),
        fp64=bool(getattr(properties, "has_fp64", known.fp64)),
        fp16=bool(getattr(properties, "has_fp16", known.fp16)),
        atomic64=bool(getattr(properties, "has_atomic64", known.atomic64)),
        bf16_native=known.bf16_native or _has(properties, "has_bfloat16_conversions"),
        matrix_unit=matrix,
        int8_dot=known.int8_dot or matrix,
        block_io_2d=known.block_io_2d or _has(properties, "has_subgroup_2d_block_io"),
        slm=getattr(properties, "local_mem_size", known.slm),
        sub_group_sizes=tuple(getattr(properties, "sub_group_sizes", known.sub_group_sizes)),
        max_sub_groups=getattr(properties, "max_num_sub_groups", known.max_sub_groups),
        max_work_group=getattr(properties, "max_work_group_size", known.max_work_group),
    )


def is_underreported(properties: Any) -> bool:
    """Whether torch denies the matrix unit of an architecture that has one: Triton leaves it unused then."""
    denied = hasattr(properties, "has_subgroup_matrix_multiply_accumulate") and not _has(
        properties, "has_subgroup_matrix_multiply_accumulate"
    )
    return denied and caps_of(properties).matrix_unit


def _version(properties: Any) -> tuple[int, int] | None:
    """Major version and release of the graphics IP; None where torch or the driver does not tell."""
    number = getattr(properties, "architecture", None)
    if not number or number >> 56:  # another vendor's, or SYCL's "unknown"
        return None
    return (number >> 30) & 0x3FF, (number >> 22) & 0xFF


def _inferred(properties: Any) -> str:
    """The architecture that the capabilities alone point to; empty where they fit several."""
    matrix = _has(properties, "has_subgroup_matrix_multiply_accumulate")
    blocks = _has(properties, "has_subgroup_2d_block_io")
    fp64, integrated = _has(properties, "has_fp64"), _has(properties, "is_integrated_gpu")
    if matrix and not fp64:
        return "alchemist"
    if matrix and blocks:
        return "lunar_lake" if integrated else "battlemage"
    return "meteor_lake" if fp64 and integrated and not matrix and not blocks else ""


def _is_limited(version: tuple[int, int] | None, known: XPUCaps, properties: Any) -> bool:
    """Whether buffers are addressed by 32 bits; of what is unknown, the worse is taken."""
    if version is None:
        return known.max_alloc is not None or not (
            known.block_io_2d or _has(properties, "has_subgroup_2d_block_io")
        )
    return version < (20, 0) and version not in _HPC


def _has(properties: Any, name: str) -> bool:
    return bool(getattr(properties, name, False))

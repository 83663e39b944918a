"""Compiling a kernel of Triton for a device that is not here."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import triton
from triton.backends import backends
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, KernelInterface

#: Devices for which public Triton compiles down to machine code, on the CPU alone.
PUBLIC = {
    "cuda": (GPUTarget("cuda", 90, 32), "cubin"),
    "hip": (GPUTarget("hip", "gfx942", 64), "hsaco"),
}
# What Triton of Intel asks a device; as data, since none is here.
_ARC = {
    "max_work_group_size": 1024,
    "sub_group_sizes": [16, 32],
    "has_subgroup_matrix_multiply_accumulate": True,
    "has_bfloat16_conversion": True,
    "__intel_already_queried_extensions__": True,
}
#: By the names of ``TRITON_INTEL_DEVICE_ARCH``: Alchemist and Battlemage.
ARC = {
    "dg2": GPUTarget("xpu", {**_ARC, "architecture": 1, "has_fp64": False, "max_num_sub_groups": 128}, 32),
    "bmg": GPUTarget(
        "xpu",
        {**_ARC, "architecture": 2, "has_fp64": True, "max_num_sub_groups": 64, "has_2d_block_io": True},
        32,
    ),
}
HAS_INTEL = "intel" in backends


class Signature(NamedTuple):
    """One specialisation of a kernel, as a launch would make it.

    Args:
        kernel: ``"module.function"`` of `athena_xpu.kernels`, the module without its underscore.
        args: a type for each parameter that is no constant, in the kernel's order: ``*t`` a pointer to
            the dtype that is tried, ``*fp32`` (``*i8``, ``*i64`` ...) to a given one, ``i32``, ``i64``,
            ``fp32`` a number; ``:16`` after a number says that it is divisible by 16, ``1`` and ``none``
            are the values that Triton takes for constants. Pointers are aligned, as allocators make them.
        meta: the kernel's ``tl.constexpr`` parameters.
        options: ``num_warps``, ``num_stages`` ... of the launch.
        dtypes: that stand for ``t``.
    """

    kernel: str
    args: str
    meta: dict[str, Any]
    options: dict[str, Any]
    dtypes: tuple[str, ...] = ("fp32", "bf16", "fp16")


def jit_function(value: Any) -> JITFunction | None:
    """Return the kernel, also from within `triton.autotune`; None if the value is none."""
    while isinstance(value, KernelInterface) and not isinstance(value, JITFunction):
        value = value.fn  # pyright: ignore[reportAttributeAccessIssue]
    return value if isinstance(value, JITFunction) else None


def compile_for(target: GPUTarget, signature: Signature, dtype: str) -> Any:
    """Return Triton's compiled kernel; ``asm`` holds its stages, ``metadata`` its shared memory and warps."""
    module, _, name = signature.kernel.partition(".")
    kernel = jit_function(getattr(import_module(f"athena_xpu.kernels._{module}"), name))
    assert kernel is not None, f"{signature.kernel} is no kernel"
    free = [one for one in kernel.arg_names if one not in signature.meta]
    args = signature.args.split()
    assert len(free) == len(args), f"{signature.kernel} takes {free}; the table gives {args}"
    types: dict[str, str] = dict.fromkeys(kernel.arg_names, "constexpr")
    constants, aligned = dict(signature.meta), {}
    for parameter, arg in zip(free, args, strict=True):
        if arg in ("1", "none"):
            constants[parameter] = {"1": 1, "none": None}[arg]
            continue
        types[parameter] = f"*{dtype}" if arg == "*t" else arg.removesuffix(":16")
        if arg.startswith("*") or arg.endswith(":16"):
            aligned[(kernel.arg_names.index(parameter),)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, types, constants, aligned)
    return triton.compile(source, target=target, options=signature.options)

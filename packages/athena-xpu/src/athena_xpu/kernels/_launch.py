"""What all kernels share: launching on a tensor's own device, and ops for their backward passes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import triton
from torch import Tensor
from triton.errors import TritonError

from athena_core import KernelFailed

_LIBRARY = torch.library.Library("athena_xpu", "FRAGMENT")


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, on: Tensor, **meta: Any) -> None:
    """Run a Triton kernel on the device of the tensor ``on``.

    Raises KernelFailed where it cannot be compiled, before anything has run.
    """
    try:
        with _current(on):
            kernel[grid](*args, **meta)
    except TritonError as error:
        raise KernelFailed(str(error)) from error


def _current(on: Tensor) -> Any:
    """Make the tensor's device the current one, on which Triton launches."""
    index = on.device.index
    if index is None or index == torch.accelerator.current_device_index():
        return nullcontext()
    return torch.accelerator.device_index(index)


def backward_op(schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define an op ``athena_xpu::...`` that a compiler's graph keeps whole, and return it.

    A formula's backward is traced under ``torch.compile`` and may call ops alone. It has no gradient of
    its own: where one is wanted, the op's reference is differentiated instead.

    Args:
        schema: as `torch.library` writes it, without the namespace.
        run: launches the kernel.
        fake: says what comes out, from fake tensors.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"athena_xpu::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.athena_xpu, name).default


#: What kernels take, computing in float32; float64, which the A series lacks, is the reference's.
DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})


def in_rows(x: Tensor) -> bool:
    """Whether rows of neighbouring elements follow each other at one distance."""
    return x.ndim > 0 and (
        x.is_contiguous() or (x.ndim == 2 and x.stride(1) == 1 and x.stride(0) >= x.shape[1])
    )


def row_stride(x: Tensor) -> int:
    """The distance of the rows of a tensor that is `in_rows`, in elements."""
    return x.stride(-2) if x.ndim == 2 else x.shape[-1]


def block_of(width: int, most: int = 2048) -> tuple[int, int]:
    """Columns that one program takes, and its warps: a power of two, 8 elements a thread."""
    block = max(16, min(most, triton.next_power_of_2(width)))
    return block, max(1, min(8, block // 256))

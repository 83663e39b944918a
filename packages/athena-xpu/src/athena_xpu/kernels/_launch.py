"""What all kernels share: launching on a tensor's own device, and ops for their backward passes."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import shorten
from typing import Any

import torch
import triton
from torch import Tensor
from triton.compiler.errors import CompilationError
from triton.runtime.errors import AutotunerError, InterpreterError, OutOfResources, PTXASError

from athena_core import KernelFailed
from athena_xpu.kernels._limits import check_launch

_LIBRARY = torch.library.Library("athena_xpu", "FRAGMENT")
_REFUSALS = (CompilationError, OutOfResources, PTXASError, AutotunerError)
_OF_THE_RUN = (torch.OutOfMemoryError, torch.AcceleratorError, InterpreterError)
_PREPARED: set[Any] = set()


Grid = tuple[int, ...] | Callable[[dict[str, Any]], tuple[int, ...]]


def launch(kernel: Any, grid: Grid, *args: Any, on: Tensor, **meta: Any) -> None:
    """Run a Triton kernel on the device of the tensor ``on``, in torch's current stream there.

    Raises KernelFailed where it cannot be compiled or loaded, before anything has run. Errors of its run,
    and of a device whose memory is full, pass.
    """
    index = on.get_device()  # -1 on the CPU
    if on.is_xpu:
        check_launch(index, meta.get("num_warps", 4))  # Triton's default is 4
    if index >= 0 and index != torch.accelerator.current_device_index():
        with torch.accelerator.device_index(index):  # Triton takes device and stream from torch
            launch(kernel, grid, *args, on=on, **meta)
        return
    try:
        kernel[grid](*args, **meta)
    except Exception as error:
        if _could_run(error, kernel, args, meta):
            raise
        raise _failure(kernel, error) from error


def _could_run(error: Exception, kernel: Any, args: tuple[Any, ...], meta: dict[str, Any]) -> bool:
    """Whether an error of a launch is one of the run itself, the kernel being compiled and loaded.

    Drivers and compilers raise RuntimeError for many reasons, as where Triton finds no driver, no C
    compiler, or a binary that the device refuses. Whether the kernel is there tells them apart.
    """
    if isinstance(error, _REFUSALS):
        return False
    if _is_of_the_run(error):
        return True
    try:
        compiled = kernel.warmup(*args, grid=(1,), **meta)
    except Exception:  # noqa: BLE001 - whatever it raises, there is no kernel
        return False
    every = compiled if isinstance(compiled, list) else [compiled]  # one a configuration that is tuned
    return any(one is None or one.module is not None for one in every)  # None: interpreted


def _is_of_the_run(error: Exception) -> bool:
    return isinstance(error, _OF_THE_RUN) or "out of memory" in str(error).lower()


def _failure(kernel: Any, error: BaseException) -> KernelFailed:
    """The failure in one line: a compiler's error quotes the source, and where it is nested, says less."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = getattr(error, "error_message", None) or str(error) or type(error).__name__
    name = getattr(kernel, "base_fn", kernel).__name__  # within what tunes it
    return KernelFailed(f"Triton cannot run `{name}`: {shorten(said, 300)}")


def prepare(kernel: Any, *args: Any, on: Tensor, **meta: Any) -> None:
    """Compile and load a kernel as `launch` would, without running it; the second time costs a look-up.

    Raises KernelFailed where it cannot be. A kernel that changes arguments with several launches prepares
    them all before the first.
    """
    tensors = tuple((one.dtype, one.data_ptr() % 16) for one in args if isinstance(one, Tensor))
    key = (id(kernel), on.device, tensors, *map(type, args), *meta.items())
    if key in _PREPARED:
        return
    try:
        with torch.accelerator.device_index(on.device.index):
            compiled = kernel.warmup(*args, grid=(1,), **meta)
            if compiled is not None:  # as in the interpreter
                _ = compiled.run  # loads it
    except Exception as error:
        if _is_of_the_run(error):
            raise
        raise _failure(kernel, error) from error
    _PREPARED.add(key)


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


def tile_of(rows: int, width: int, most: int = 2048) -> tuple[int, int, int]:
    """Rows and columns that one program takes, and its warps: narrow rows are taken several at once."""
    block, _ = block_of(width, most)
    tall = min(most // block, triton.next_power_of_2(max(1, rows)))
    return tall, block, max(1, min(8, tall * block // 256))

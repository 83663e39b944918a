"""Launching: what is a failure to compile, and what an error of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from triton.compiler.errors import CompilationError
from triton.runtime.errors import InterpreterError, OutOfResources, PTXASError

from athena_core import KernelFailed
from athena_xpu.kernels import _launch
from athena_xpu.kernels._launch import launch, prepare


class StandIn:
    """A kernel of Triton that fails as told, when it is launched or when it is compiled."""

    __name__ = "my_kernel"

    def __init__(
        self,
        launching: BaseException | None = None,
        compiling: BaseException | None = None,
        loaded: bool = True,
    ):
        self.launching, self.compiling, self.loaded = launching, compiling, loaded
        self.launches: list[tuple[Any, ...]] = []
        self.compiled = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def run(*args: Any, **meta: Any) -> None:
            if self.launching is not None:
                raise self.launching
            self.launches.append((grid, args, meta))

        return run

    def warmup(self, *args: Any, grid: tuple[int, ...], **meta: Any) -> SimpleNamespace:
        if self.compiling is not None:
            raise self.compiling
        self.compiled += 1
        return SimpleNamespace(module=object() if self.loaded else None, run=None)


ON = torch.zeros(2)


def test_a_launch_passes_grid_arguments_and_constants() -> None:
    kernel = StandIn()
    launch(kernel, (3, 2), ON, 5, on=ON, BLOCK=16)
    assert kernel.launches == [((3, 2), (ON, 5), {"BLOCK": 16})]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (CompilationError("source", SimpleNamespace(), "no such type"), "no such type"),
        (OutOfResources(98304, 65536, "shared memory"), "out of resource: shared memory"),
        (PTXASError("invalid\ninstruction"), "invalid instruction"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_the_compiler_refuses(error: Exception, said: str) -> None:
    with pytest.raises(KernelFailed, match=f"^Triton cannot run `my_kernel`: {said}") as raised:
        launch(StandIn(error), (1,), ON, on=ON)
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("0 active drivers ([]). There should only be one."),
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
        OSError("cannot find -lze_loader"),
        ValueError("num_warps must be a power of 2"),
    ],
    ids=["no driver", "no C compiler", "library", "option"],
)
def test_what_cannot_be_compiled_for_another_reason(error: Exception) -> None:
    with pytest.raises(KernelFailed) as raised:
        launch(StandIn(error, compiling=error), (1,), ON, on=ON)
    assert str(error) in str(raised.value)


def test_what_the_device_does_not_load() -> None:
    """As Intel's driver says that it could not build the module."""
    error = RuntimeError("Triton Error [ZE]: 0x70000004")
    with pytest.raises(KernelFailed, match="0x70000004"):
        launch(StandIn(error, loaded=False), (1,), ON, on=ON)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        torch.OutOfMemoryError("XPU out of memory."),
        torch.AcceleratorError("device lost"),
        InterpreterError("IndexError('out of bounds')"),
        KeyboardInterrupt(),
    ],
    ids=["illegal access", "memory of Triton", "memory of torch", "accelerator", "interpreter", "interrupt"],
)
def test_errors_of_the_run_pass(error: BaseException) -> None:
    kernel = StandIn(error)
    with pytest.raises(type(error)) as raised:
        launch(kernel, (1,), ON, on=ON)
    assert raised.value is error


def test_the_innermost_reason_of_a_nested_failure_is_told() -> None:
    inner, outer = (
        CompilationError("s", SimpleNamespace(), "bad cast"),
        CompilationError("s", SimpleNamespace()),
    )
    outer.__cause__ = inner
    with pytest.raises(KernelFailed, match="bad cast"):
        launch(StandIn(outer), (1,), ON, on=ON)


def test_long_reasons_are_cut() -> None:
    with pytest.raises(KernelFailed) as raised:
        launch(StandIn(PTXASError("word " * 500)), (1,), ON, on=ON)
    assert len(str(raised.value)) < 400


def test_the_tensor_s_own_device_is_current_while_its_kernel_is_launched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Triton launches on torch's current device, in its current stream."""
    current = [1]
    kernel = StandIn()

    @contextmanager
    def entering(index: int) -> Iterator[None]:
        before, current[0] = current[0], index
        kernel.launches.append(("entered", index))
        yield
        current[0] = before

    accelerator = SimpleNamespace(current_device_index=lambda: current[0], device_index=entering)
    monkeypatch.setattr(_launch.torch, "accelerator", accelerator)
    for index, entered in ((-1, []), (1, []), (0, [("entered", 0)])):
        kernel.launches.clear()
        launch(kernel, (1,), on=SimpleNamespace(get_device=lambda index=index: index, is_xpu=False))
        assert kernel.launches == [*entered, ((1,), (), {})]
        assert current == [1]


def test_preparing_compiles_once_and_runs_nothing() -> None:
    kernel = StandIn()
    for _ in range(3):
        prepare(kernel, ON, 5, on=ON, BLOCK=16)
    prepare(kernel, ON.half(), 5, on=ON, BLOCK=16)
    assert (kernel.compiled, kernel.launches) == (2, [])


def test_preparing_what_cannot_be_compiled() -> None:
    with pytest.raises(KernelFailed, match="no driver"):
        prepare(StandIn(compiling=RuntimeError("no driver")), ON, on=ON)
    with pytest.raises(torch.OutOfMemoryError):
        prepare(StandIn(compiling=torch.OutOfMemoryError("full")), ON, on=ON)

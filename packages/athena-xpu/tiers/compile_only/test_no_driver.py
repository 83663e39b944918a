"""Where Triton has no driver, or its compiler refuses a kernel, the reference runs, once warned of."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget

from athena_core import KernelFailed, _kernels
from athena_core.testing._kernels import offered
from athena_nn import swiglu
from athena_xpu._plugin import kernels_for
from athena_xpu.kernels._launch import launch

(SWIGLU,) = (kernel for kernel in kernels_for("cpu") if kernel.op == "athena_nn::swiglu")


@pytest.fixture(autouse=True)
def _driver() -> Iterator[None]:
    if torch.cuda.is_available() or torch.xpu.is_available():
        pytest.skip("Triton has a driver here")
    yield
    triton.runtime.driver._active = triton.runtime.driver._default = None


def test_no_driver() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    expected = torch.autograd.grad(swiglu(x).sum(), x)[0]
    with offered(SWIGLU):
        with pytest.warns(RuntimeWarning, match="swiglu runs on cpu: .*0 active drivers") as caught:
            out = swiglu(x)
        assert len(caught) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            swiglu(x)
        torch.testing.assert_close(torch.autograd.grad(out.sum(), x)[0], expected)
        op = _kernels.OPS[SWIGLU.op]
        assert "0 active drivers" in op.refused["cpu"]


class Driver:
    """An NVIDIA GPU's, as far as compiling goes; what it should load it refuses, as told."""

    def __init__(self, refusal: str):
        self.launcher_cls = lambda *_: None
        self.utils = SimpleNamespace(
            load_binary=self._load, get_device_properties=lambda _: {"max_shared_mem": 1024}
        )
        self.refusal = refusal

    def _load(self, *_: Any) -> None:
        raise RuntimeError(self.refusal)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@triton.jit
def refused(x, BLOCK: tl.constexpr):  # noqa: N803
    tl.static_assert(BLOCK < 0, "blocks must be smaller")


@triton.jit
def unloadable(x, BLOCK: tl.constexpr):  # noqa: N803
    tl.store(x + tl.arange(0, BLOCK), 1.0)


@triton.jit
def too_large(x, BLOCK: tl.constexpr):  # noqa: N803
    rows = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    tile = tl.load(x + rows).to(tl.float16)
    tl.store(x + rows, tl.dot(tile, tl.dot(tile, tile).to(tl.float16)))


@pytest.mark.parametrize(
    ("kernel", "block", "said"),
    [
        (refused, 16, "Triton cannot run `refused`: blocks must be smaller"),
        (unloadable, 16, "Triton cannot run `unloadable`: Triton Error: the module cannot be built"),
        (too_large, 32, "Triton cannot run `too_large`: out of resource: shared memory"),
        (unloadable, 15, "Triton cannot run `unloadable`: arange's range must be a power of 2"),
    ],
    ids=["compiler", "loader", "resources", "language"],
)
def test_a_kernel_that_is_refused(kernel: Any, block: int, said: str) -> None:
    triton.runtime.driver.set_active(Driver("Triton Error: the module cannot be built"))
    x = torch.zeros(block * block)
    for _ in range(2):  # Triton itself remembers the first refusal, and raises it otherwise
        with pytest.raises(KernelFailed) as raised:
            launch(kernel, (1,), x, on=x, BLOCK=block, num_warps=4)
    assert str(raised.value).startswith(said)

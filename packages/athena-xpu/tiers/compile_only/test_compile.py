"""Every kernel compiles for NVIDIA's and AMD's GPUs, and for Intel's where Triton of Intel is installed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from compiling import ARC, HAS_INTEL, PUBLIC, Signature, compile_for, jit_function
from signatures import SIGNATURES

from athena_xpu import kernels

# For AMD one dtype of each, to save time.
CASES = [
    pytest.param(signature, dtype, device, id=f"{signature.kernel}-{number}-{dtype}-{device}")
    for number, signature in enumerate(SIGNATURES)
    for dtype in signature.dtypes
    for device in (PUBLIC if dtype == "bf16" or len(signature.dtypes) == 1 else ["cuda"])
]


@pytest.mark.parametrize(("signature", "dtype", "device"), CASES)
def test_compiles(signature: Signature, dtype: str, device: str) -> None:
    target, machine_code = PUBLIC[device]
    compiled = compile_for(target, signature, dtype)
    assert compiled.asm[machine_code]
    assert compiled.metadata.shared <= 64 * 1024, "more local memory than the A series has"
    assert "f64" not in str(compiled.asm["ttir"]), "float64, which the A series lacks"


@pytest.mark.skipif(not HAS_INTEL, reason="the Triton here has no backend for Intel; it comes with torch+xpu")
@pytest.mark.parametrize("arch", ARC)
@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda one: one.kernel)
def test_compiles_for_arc(signature: Signature, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTEL_DEVICE_ARCH", arch)
    for dtype in signature.dtypes:
        assert compile_for(ARC[arch], signature, dtype).asm["spv"]


def test_every_kernel_is_in_the_table() -> None:
    functions = {}
    for path in Path(*kernels.__path__).glob("_[a-z]*.py"):
        module = import_module(f"athena_xpu.kernels.{path.stem}")
        for name, value in vars(module).items():
            function = jit_function(value)
            if function is not None and function.__module__ == module.__name__:
                functions[f"{path.stem[1:]}.{name}"] = function
    helpers = {name for one in functions.values() for name in one.fn.__code__.co_names}
    launched = {name for name in functions if name.partition(".")[2] not in helpers}
    assert launched == {signature.kernel for signature in SIGNATURES}

"""Every configuration of the int8 product compiles, and takes the local memory by which it was chosen."""

from __future__ import annotations

import pytest
import triton
from compiling import PUBLIC, Signature, compile_for

from athena_xpu.kernels._int8_linear import _CONFIGS, _stage_bytes

ARGS = "*i8 *i8 *fp32 *fp32 *t none none *t i32:16 i32:16 i32:16 i32:16"


@pytest.mark.parametrize("config", _CONFIGS, ids=lambda one: "x".join(map(str, one.kwargs.values())))
def test_configuration(config: triton.Config) -> None:
    signature = Signature(
        "int8_linear._multiply",
        ARGS,
        {"ROWS": 4096, "STATIC": False, **config.kwargs},
        {"num_warps": config.num_warps, "num_stages": config.num_stages, "enable_fp_fusion": False},
    )
    target, machine_code = PUBLIC["cuda"]
    compiled = compile_for(target, signature, "bf16")
    assert compiled.asm[machine_code]
    assert compiled.metadata.shared <= _stage_bytes(config) * config.num_stages
    assert ".s32.s8.s8" in compiled.asm["ptx"], "no matrix unit"
    assert "fma.rn" not in compiled.asm["ptx"], "products and sums are rounded each"
    assert "cp.async" in compiled.asm["ptx"], "no pipeline"

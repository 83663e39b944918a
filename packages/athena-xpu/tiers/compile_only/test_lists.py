"""Kernels over lists read and write 16 bytes at a time, although their pointers come from a table."""

from __future__ import annotations

import re

import pytest
from compiling import PUBLIC, Signature, compile_for
from signatures import SIGNATURES

CASES = [one for one in SIGNATURES if one.kernel in ("adamw._step", "lamb._moments", "lamb._apply")]


@pytest.mark.parametrize("signature", CASES, ids=lambda one: f"{one.kernel}-{one.meta['DTYPE']}")
def test_vectors(signature: Signature) -> None:
    ptx = compile_for(PUBLIC["cuda"][0], signature, "fp32").asm["ptx"]
    lists = 3 if signature.kernel == "lamb._apply" else 4
    assert len(re.findall(r"ld\.global\.v4\.b32", ptx)) >= lists
    assert "st.global.v4.b32" in ptx

"""Every kernel obeys what the core asks of all kernels."""

from __future__ import annotations

import pytest
from drawn import KERNELS

import athena_compress
import athena_nn
import athena_optim
from athena_core.testing import Check, kernel_checks

for package, names in ((athena_nn, ["swiglu"]), (athena_optim, ["Lamb"]), (athena_compress, ["quantize"])):
    for name in names:
        getattr(package, name)  # whose module defines the ops


@pytest.mark.parametrize(
    "check",
    [check for kernel in KERNELS.values() for check in kernel_checks(kernel)],
    ids=lambda one: one.name,
)
def test_kernel(check: Check) -> None:
    check()

"""Every kernel obeys what the core asks of all kernels."""

from __future__ import annotations

from typing import Any

import pytest
from drawn import KERNELS

from athena_core.testing import Check, kernel_checks

#: Checks that an op cannot pass, and why.
EXCUSED = {
    "athena_compress::int8_linear on cpu: gradients agree with finite differences": (
        "the gradient is that of the layer that is not rounded; the layer itself is a staircase"
    ),
}


def case(check: Check) -> Any:
    reason = EXCUSED.get(check.name)
    marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
    return pytest.param(check, id=check.name, marks=marks)


@pytest.mark.parametrize(
    "check", [case(check) for kernel in KERNELS.values() for check in kernel_checks(kernel)]
)
def test_kernel(check: Check) -> None:
    check()

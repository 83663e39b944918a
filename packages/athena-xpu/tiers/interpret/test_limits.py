"""Kernels are checked against an Intel GPU's limits before they are launched."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from athena_core import KernelFailed
from athena_xpu import ARCHITECTURES
from athena_xpu.kernels import _limits
from athena_xpu.kernels._launch import launch


@pytest.fixture(autouse=True)
def _alchemist(monkeypatch: pytest.MonkeyPatch) -> None:
    _limits.check_launch.cache_clear()
    monkeypatch.setattr(_limits, "_caps", lambda _: ARCHITECTURES["alchemist"])


def test_a_launch_with_too_many_warps_is_refused_before_it_is_compiled() -> None:
    with FakeTensorMode():
        on = torch.empty(3, device="xpu:0")
    with pytest.raises(KernelFailed, match="`num_warps` x `warp_size` must be at most 1024; got 64 x 32"):
        launch(None, (1,), on=on, num_warps=64)

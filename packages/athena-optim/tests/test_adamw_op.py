"""The op of AdamW's step: its reference is torch's step, and a device plugin can replace it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from athena_core import Kernel
from athena_core.testing import kernel_checks
from athena_optim import AdamW
from athena_optim._adamw_op import adamw_

KERNEL = Kernel("athena_optim::adamw_", "cpu", "adamw_kernel:kernel")


@pytest.mark.parametrize("check", list(kernel_checks(KERNEL)), ids=lambda check: check.name)
def test_a_device_plugin_can_replace_the_op(check):
    """All that a kernel is asked, asked of AdamW by loops as if a plugin offered it for the CPU."""
    check()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the op was called with."""
    seen: list[tuple[Any, ...]] = []

    def spy(*args: Any) -> None:
        seen.append(args)
        adamw_(*args)

    monkeypatch.setattr("athena_optim._adamw_wide.adamw_", spy)
    return seen


def stepped(steps: int = 3, dtype: torch.dtype = torch.float32, **options: Any) -> list[Tensor]:
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in ((3, 4), (5,), ())]
    optimizer = AdamW(params, lr=options.pop("lr", 0.1), **options)
    for _ in range(steps):
        for param in params:
            param.grad = torch.randn(param.shape).to(dtype)
        optimizer.step()
    return params


@pytest.mark.parametrize(
    "options",
    [{}, {"maximize": True, "weight_decay": 0.0}, {"dtype": torch.bfloat16, "precision": "float32"}],
)
def test_every_fused_step_is_the_op(options, calls):
    """But the first, which makes the state and is torch's."""
    stepped(**options)
    assert len(calls) == 3 - (options.get("precision") is None)


@pytest.mark.parametrize(
    "options",
    [{"amsgrad": True}, {"capturable": True}, {"lr": torch.tensor(0.1)}, {"foreach": True}, {"fused": False}],
)
def test_what_stays_with_torch(options, calls):
    stepped(**options)
    assert not calls


@pytest.mark.parametrize("maximize", [False, True])
def test_strided_tensors_take_torchs_other_step(maximize):
    """The fused one knows no strides; the op counts no step, which its caller has counted."""
    torch.manual_seed(0)
    wide = [torch.randn(4, 6).square() for _ in range(4)]
    lists = [[one[:, ::2]] for one in wide]
    dense = [[one[:, ::2].contiguous()] for one in wide]
    steps = [torch.tensor(3.0)]
    outside = wide[0][:, 1::2].clone()
    for tensors in (lists, dense):
        adamw_(*tensors, steps, 0.1, 0.9, 0.99, 1e-8, 0.1, maximize)
    for found, expected in zip(lists, dense, strict=True):
        torch.testing.assert_close(found[0], expected[0])
    assert steps[0].item() == 3.0
    assert torch.equal(wide[0][:, 1::2], outside)


def test_no_tensors_are_no_step():
    adamw_([], [], [], [], [], 0.1, 0.9, 0.99, 1e-8, 0.1, False)

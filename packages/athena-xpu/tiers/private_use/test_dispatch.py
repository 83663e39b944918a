"""Kernels reach a made-up device through torch's own dispatcher, as they would a real one."""

from __future__ import annotations

import unittest
from collections.abc import Iterator

import imaginary
import pytest
import torch
from imaginary import NAME, falling_back, on_host

import athena_nn
import athena_optim
import athena_xpu
from athena_core import Kernel, KernelFailed, _kernels, kernels, kernels_disabled
from athena_core.testing import Check, kernel_checks
from athena_core.testing._kernel_outcomes import _cotangents, _leaves, _tensors
from athena_core.testing._kernels import _Trial, offered
from athena_xpu._plugin import kernels_for

KERNELS = {kernel.op: kernel for kernel in kernels_for(NAME)}
# Those of the kit's laws that depend on the device's own keys; values are compared in `interpret`.
LAWS = (
    "samples reach the kernel",
    "results carry no gradient",
    "frozen arguments get no gradient",
    "second derivatives equal the reference",
    "graph holds the op alone",
    "modes do not change the result",
    "autocast gives the same dtype",
    "changes are counted",
    "gradients run the reference",
)
CHECKS = [
    check for kernel in KERNELS.values() for check in kernel_checks(kernel) if check.name.endswith(LAWS)
]
DIFFERENTIABLE = [op for op, kernel in KERNELS.items() if kernel.autograd]


@pytest.fixture(autouse=True)
def _nothing_installed() -> Iterator[None]:
    _kernels.forget()
    yield
    _kernels.forget()


@pytest.mark.parametrize("check", CHECKS, ids=lambda one: one.name)
def test_law(check: Check) -> None:
    try:
        check()
    except unittest.SkipTest as reason:
        pytest.fail(f"the device is here: {reason}")


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_forward_and_backward_are_the_kernel_s_own(op: str) -> None:
    """The device's autograd key runs the formula; the reference runs nowhere."""
    record = _kernels.OPS[op]
    trial = _Trial(record, KERNELS[op], record.samples)
    args, wanted = _leaves(trial.one())
    with offered(KERNELS[op]), trial.counting() as references:
        outputs = _tensors(record.overload(*args))
        found = torch.autograd.grad(outputs, wanted, _cotangents(outputs))
    assert not references
    assert {one.device.type for one in (*outputs, *found)} == {NAME}
    hosts = torch.utils._pytree.tree_map(
        lambda x: x.detach().cpu() if isinstance(x, torch.Tensor) else x, args
    )
    host_args, host_wanted = _leaves(hosts)
    expected = _tensors(record.reference(*host_args))
    gradients = torch.autograd.grad(expected, host_wanted, _cotangents(expected))
    for ours, theirs in zip((*outputs, *found), (*expected, *gradients), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, atol=1e-5, rtol=1e-5)


def test_a_model_that_is_moved_gets_its_kernels_at_the_first_call() -> None:
    athena_xpu.register(NAME)
    feed_forward = athena_nn.FeedForward(8, 12, activation="swiglu").to(NAME)

    def told() -> dict[str, str]:
        return {row.op: row.why for row in kernels() if row.device == NAME}

    assert told()["athena_nn::swiglu"] == f"installed at the first call on {NAME}"
    x = torch.randn(3, 8)
    feed_forward.cpu()(x)
    assert told()["athena_nn::swiglu"] == f"installed at the first call on {NAME}"
    y = feed_forward.to(NAME)(x.to(NAME))
    assert told()["athena_nn::swiglu"] == "installed"
    torch.testing.assert_close(y.cpu(), feed_forward.cpu()(x))


def test_disabled_kernels_run_the_reference_on_the_device() -> None:
    x = torch.randn(3, 8, device=NAME)
    with offered(KERNELS["athena_nn::swiglu"]):
        with falling_back() as ops:
            fast = athena_nn.swiglu(x)
        assert ops == []  # all of it is the kernel's, on the device's memory
        with falling_back() as ops, kernels_disabled():
            plain = athena_nn.swiglu(x)
        assert "aten::silu.out" in ops
    torch.testing.assert_close(on_host(fast), on_host(plain))


def test_a_list_that_a_kernel_changes() -> None:
    """Tensors of two dtypes and odd sizes; versions are counted on the device."""
    weights = [torch.randn(5), torch.randn(3, 2), torch.randn(0), torch.randn(7).bfloat16()]
    there = [one.to(NAME).requires_grad_() for one in weights]
    here = [one.clone().requires_grad_() for one in weights]
    for ours, theirs in zip(there, here, strict=True):
        gradient = torch.randn(theirs.shape).to(theirs.dtype)
        ours.grad, theirs.grad = gradient.to(NAME), gradient
    athena_xpu.register(NAME)
    for parameters in (there, here):
        athena_optim.Lamb(parameters, lr=0.1).step()
    for ours, theirs in zip(there, here, strict=True):
        torch.testing.assert_close(ours.detach().cpu(), theirs.detach())


def test_a_kernel_that_cannot_be_compiled_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference runs there, once warned of, and so it does backward."""
    x = torch.randn(3, 8, device=NAME, requires_grad=True)

    def fails(*_: object, **__: object) -> None:
        raise KernelFailed("no compiler for imaginary devices")

    kernel = KERNELS["athena_nn::swiglu"]
    with offered(kernel):
        out = athena_nn.swiglu(x)
        monkeypatch.setattr("athena_xpu.kernels._gated.launch", fails)
        with pytest.warns(RuntimeWarning, match="runs on imaginary: .* no compiler for imaginary devices"):
            out.sum().backward()
        again = athena_nn.swiglu(x)
        assert "KernelFunction" not in str(again.grad_fn)
        (gradient,) = torch.autograd.grad(again.sum(), x)
    torch.testing.assert_close(gradient.cpu(), x.grad.cpu())


def test_registering_for_a_device_that_is_not_here() -> None:
    """Pitfall 6: on a CPU build of torch, kernels for xpu are registered as on any other."""
    for kernel in kernels_for("xpu"):
        with offered(kernel):
            assert _kernels.install(_kernels.OPS[kernel.op], "xpu")
            assert not _kernels.install(_kernels.OPS[kernel.op], "xpu")  # twice is once
            assert _kernels.OPS[kernel.op].refused == {}


def test_the_made_up_device_is_torch_s_accelerator() -> None:
    assert torch.accelerator.current_accelerator() == torch.device(NAME)
    assert torch.zeros(2, device=NAME).device == torch.device(NAME, 0)
    assert imaginary.LIBRARIES
    with pytest.raises(ValueError, match="no device type 'imaginery'"):
        _kernels.load(
            _kernels.OPS["athena_nn::swiglu"],
            Kernel("athena_nn::swiglu", "imaginery", "a:b", autograd="a:B"),
        )

"""Kernels that cannot run here: the reference runs in their stead, once warned of, and is differentiated."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fake_kernels import LOG, axpy, square
from frail_kernels import FAILING, MEETING, Frail

from athena_core import Kernel, KernelFailed, _kernels, hookimpl, kernels
from athena_core._cli import main
from athena_core._host import PluginHost
from athena_core._try_kernels import try_kernels
from athena_core.testing._kernels import called, lowering, offered

ON_CPU = "the reference of athena_test::{} runs on cpu: kernel of `frail` refused: KernelFailed: no compiler"
NO_SQUARE, NO_AXPY = ON_CPU.format("square"), ON_CPU.format("axpy")


@pytest.fixture(autouse=True)
def _frail(athena_host: PluginHost, seed: int):
    for one in (LOG, FAILING, MEETING):
        one.clear()
    athena_host.register(Frail(), "frail")
    yield
    FAILING.clear()
    _kernels.forget()


def leaves() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, 4, requires_grad=True), torch.randn(4, requires_grad=True)


def told(op: str = "athena_test::square") -> tuple[str, str]:
    (row,) = [row for row in kernels() if row.op == op]
    return row.runs, row.why


@pytest.mark.parametrize("call", [square, torch.ops.athena_test.square], ids=["function", "dispatcher"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_reference_runs_and_the_first_failure_is_warned_of(call, mode):
    FAILING.add("square")
    with mode():
        x, weight = torch.randn(3, 4), torch.randn(4)
        with pytest.warns(RuntimeWarning, match=NO_SQUARE) as caught:
            found = call(x, weight)
        assert len(caught) == 1
        assert torch.equal(found, x * x * weight + 1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(x, weight)  # said once, and the kernel is not tried again
    assert LOG == ["failed", "reference", "reference"]
    assert told() == ("reference", "KernelFailed: no compiler")


def test_where_a_kernel_failed_calls_cost_what_they_cost_without_one():
    FAILING.add("square")
    with pytest.warns(RuntimeWarning, match=NO_SQUARE):
        square(*leaves())
    assert "cpu" not in (_kernels.OPS["athena_test::square"].claims or {})  # nor is the dispatcher asked


@pytest.mark.parametrize("conjugate", [False, True], ids=["plain", "behind conj()"])
def test_the_gradient_of_a_reference_s_forward_is_the_reference_s(conjugate):
    """Below conj()'s own key, the failure is met where autograd is over."""
    x = torch.randn(3, dtype=torch.complex64, requires_grad=True)
    given = x.conj() if conjugate else x
    FAILING.add("square")
    with pytest.warns(RuntimeWarning, match=NO_SQUARE):
        out = square(given, torch.ones(3))
    FAILING.clear()
    assert "formula" not in str(out.grad_fn).lower()
    assert "KernelFunction" not in str(out.grad_fn)
    (found,) = torch.autograd.grad(out.real.sum(), x)
    (expected,) = torch.autograd.grad((given * given).real.sum(), x)
    assert torch.allclose(found, expected)
    assert "formula" not in LOG


def test_a_failing_backward_gives_the_reference_s_gradient():
    x, weight = leaves()
    outs = [square(x, weight), square(x, weight)]
    FAILING.add("square's backward")
    with pytest.warns(RuntimeWarning, match=NO_SQUARE) as caught:
        found = torch.autograd.grad(sum(one.sum() for one in outs), [x, weight])
    assert len(caught) == 1
    assert torch.allclose(found[0], 4 * x * weight)
    assert torch.allclose(found[1], 2 * x.square().sum(0))
    assert not found[0].requires_grad
    assert LOG == ["kernel", "kernel", "failed", "reference", "reference"]
    square(x, weight).sum().backward()
    assert LOG[5:] == ["reference"]  # forward too: no formula follows
    assert told() == ("reference", "KernelFailed: no compiler")


def test_a_failing_forward_of_a_formula_s_own():
    x, weight = leaves()
    kernel = Kernel("athena_test::square", "cpu", "frail_kernels:square", autograd="frail_kernels:OwnForward")
    FAILING.add("square's own forward")
    with offered(kernel, distribution="frail"):
        with pytest.warns(RuntimeWarning, match=NO_SQUARE):
            out = square(x, weight)
        (found,) = torch.autograd.grad(out.sum(), x)
    assert torch.allclose(found, 2 * x * weight)
    assert LOG == ["failed", "reference"]


def test_frozen_arguments_get_no_gradient_from_a_failing_backward():
    x, _ = leaves()
    out = square(x, torch.ones(4))
    FAILING.add("square's backward")
    with pytest.warns(RuntimeWarning, match=NO_SQUARE):
        out.sum().backward()
    assert torch.allclose(x.grad, 2 * x)


def test_arguments_are_changed_once():
    values, weight = [torch.zeros(3)], torch.ones(3, requires_grad=True)
    loss = (weight * values[0]).sum()
    FAILING.add("axpy")
    with pytest.warns(RuntimeWarning, match=NO_AXPY):
        axpy(values, [torch.ones(3)], 2.0)
    assert values[0].tolist() == [2.0] * 3
    axpy(values, [torch.ones(3)])
    assert values[0].tolist() == [3.0] * 3
    assert LOG == ["failed", "reference", "reference"]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert told("athena_test::axpy") == ("reference", "KernelFailed: no compiler")
    assert told()[0] == "kernel"  # each op for itself


def test_arguments_without_versions_are_changed_once():
    FAILING.add("axpy")
    with torch.inference_mode():
        values = [torch.zeros(3)]
        with pytest.warns(RuntimeWarning, match=NO_AXPY):
            axpy(values, [torch.ones(3)])
    assert values[0].tolist() == [1.0] * 3


@pytest.mark.parametrize("warm", [False, True], ids=["fails at once", "fails later"])
def test_a_compiled_graph_whose_kernel_fails_runs_the_reference(warm):
    x, weight = leaves()
    compiled = torch.compile(lambda x, w: square(x, w), backend="aot_eager", fullgraph=True)
    try:
        if warm:
            compiled(x, weight)
        FAILING.add("square")
        with pytest.warns(RuntimeWarning, match=NO_SQUARE):
            out = compiled(x, weight)
        found = torch.autograd.grad(out.sum(), [x, weight])
        assert torch.allclose(found[0], 2 * x * weight)
        assert torch.allclose(found[1], x.square().sum(0))
        compiled(x, weight)
        assert LOG.count("failed") == 1
    finally:
        torch._dynamo.reset()


def test_a_compiled_graph_whose_kernel_fails_changes_arguments_once():
    def double_step(value, step):
        axpy([value], [step])
        axpy([value], [step])
        return value.sum()

    FAILING.add("axpy")
    value = torch.zeros(3)
    try:
        with pytest.warns(RuntimeWarning, match=NO_AXPY):
            total = torch.compile(double_step, backend="aot_eager", fullgraph=True)(value, torch.ones(3))
    finally:
        torch._dynamo.reset()
    assert value.tolist() == [2.0] * 3
    assert total == 6
    assert LOG.count("failed") == 1


def test_what_is_compiled_after_a_failure_decomposes():
    FAILING.add("square")
    x, weight = leaves()
    with pytest.warns(RuntimeWarning, match=NO_SQUARE):
        square(x, weight)
    backend, graphs = lowering()
    try:
        out = torch.compile(lambda x, w: square(x, w), backend=backend, fullgraph=True)(x, weight)
    finally:
        torch._dynamo.reset()
    assert torch.allclose(out, x * x * weight + 1e-6)
    assert {name.partition(".")[0] for graph in graphs for name in called(graph)} == {"aten"}


def test_transforms_of_a_refused_kernel():
    FAILING.add("square")
    x, weight = (one.detach() for one in leaves())
    with pytest.warns(RuntimeWarning, match=NO_SQUARE):
        square(x, weight)
    gradient = torch.func.grad(lambda x: torch.ops.athena_test.square(x, weight).sum())(x)
    assert torch.allclose(gradient, 2 * x * weight)


def test_two_threads_that_fail_at_once_warn_once():
    FAILING.add("square")
    MEETING.append(threading.Barrier(2))
    x, weight = leaves()
    with pytest.warns(RuntimeWarning, match=NO_SQUARE) as caught, ThreadPoolExecutor(2) as pool:
        outs = list(pool.map(lambda _: square(x, weight), range(2)))
    assert len(caught) == 1
    assert LOG.count("failed") == LOG.count("reference") == 2
    for out in outs:
        (gradient,) = torch.autograd.grad(out.sum(), x)
        assert torch.allclose(gradient, 2 * x * weight)


def test_strict_raises_until_it_is_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ATHENA_STRICT", "1")
    FAILING.update(["square", "axpy"])
    values = [torch.zeros(3)]
    for _ in range(2):
        with pytest.raises(KernelFailed, match="no compiler"):
            square(*leaves())
        with torch.inference_mode(), pytest.raises(KernelFailed, match="no compiler"):
            square(torch.ones(2), torch.ones(2))
        with pytest.raises(KernelFailed, match="no compiler"):
            axpy(values, [torch.ones(3)])
    assert values[0].tolist() == [0.0] * 3
    assert told() == ("kernel", "installed")
    FAILING.clear()
    out = square(*leaves())
    FAILING.add("square's backward")
    with pytest.raises(KernelFailed, match="no compiler"):
        out.sum().backward(retain_graph=True)
    monkeypatch.delenv("ATHENA_STRICT")
    with pytest.warns(RuntimeWarning, match=NO_SQUARE):
        out.sum().backward()


def test_other_errors_of_a_kernel_are_its_caller_s():
    """Such as an illegal memory access: the reference would hide it, or change arguments twice."""

    def broken(*_: object):
        raise RuntimeError("illegal memory access")

    square(*leaves())
    kernel = _kernels.OPS["athena_test::square"].installed["cpu"]
    kernel.run = broken
    with pytest.raises(RuntimeError, match="illegal memory access"):
        square(torch.ones(2), torch.ones(2))
    assert told() == ("kernel", "installed")


@pytest.mark.parametrize("failing", ["square", "square's backward", "axpy"])
def test_kernels_that_are_tried_are_told_apart(failing: str, capsys: pytest.CaptureFixture[str]):
    FAILING.add(failing)
    assert main(["kernels", "--run"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if " frail " in line}
    op, _, _ = failing.partition("'")
    assert lines.pop(f"athena_test::{op}").endswith("reference  frail  KernelFailed: no compiler")
    assert all(line.endswith("kernel     frail  installed") for line in lines.values())
    assert len(lines) == 1


def test_trying_kernels_passes_over_devices_that_are_not_here(athena_host: PluginHost):
    class Elsewhere:
        @hookimpl
        def athena_kernels(self):
            return [Kernel("athena_test::square", "xpu", "frail_kernels:square", autograd="frail_kernels:S")]

    athena_host.register(Elsewhere(), "elsewhere")
    try_kernels()
    record = _kernels.OPS["athena_test::square"]
    assert (list(record.installed), record.refused) == (["cpu"], {})


def test_a_kernel_that_is_tried_and_breaks_is_left_to_the_reference(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object):
        raise IndexError("no such block")

    monkeypatch.setattr("frail_kernels._fail", broken)
    try_kernels()
    assert told() == ("reference", "IndexError: no such block")


def test_a_compiled_backward_that_fails_raises():
    """Its graph holds the formula's own ops, for which there is no reference."""
    kernel = Kernel("athena_test::square", "cpu", "fake_kernels:kernel", autograd="frail_kernels:Traced")
    try:
        with offered(kernel):
            compiled = torch.compile(lambda x, w: square(x, w), backend="aot_eager", fullgraph=True)
            out = compiled(*leaves())
            with pytest.raises(KernelFailed, match="no compiler"):
                out.sum().backward()
    finally:
        torch._dynamo.reset()


def test_registering_a_plugin_gives_the_kernel_another_try(athena_host: PluginHost):
    FAILING.add("square")
    with pytest.warns(RuntimeWarning, match=NO_SQUARE):
        square(*leaves())
    FAILING.clear()
    LOG.clear()
    athena_host.register(Frail(), "frail")
    square(*leaves())
    assert LOG == ["kernel"]
    assert told() == ("kernel", "installed")

"""Kernels: installed where a plugin claims a device, and never the cause of a wrong gradient."""

from __future__ import annotations

import importlib
import warnings

import pytest
import torch
from fake_kernels import LOG, axpy, positive, split, square
from torch._subclasses.fake_tensor import FakeTensorMode

from athena_core import Kernel, _kernels, hookimpl, kernels, kernels_disabled, op
from athena_core._host import PluginHost
from athena_core._target import describe
from athena_core.testing import kernel_checks
from athena_core.testing._kernels import offered

FORMULA = "fake_kernels:Formula"


def kernel_of(target: str = "kernel", autograd: str = "Formula", **options) -> Kernel:
    return Kernel(
        "athena_test::square", "cpu", f"fake_kernels:{target}", autograd=f"fake_kernels:{autograd}", **options
    )


SQUARE = kernel_of()
AXPY = Kernel("athena_test::axpy", "cpu", "fake_kernels:axpy_kernel")
SPLIT = Kernel("athena_test::split", "cpu", "fake_kernels:split_kernel", autograd="fake_kernels:SplitFormula")

POSITIVE = Kernel("athena_test::positive", "cpu", "fake_kernels:positive_kernel")


class Plugin:
    def __init__(self, *offers: Kernel):
        self.offers = offers

    @hookimpl
    def athena_kernels(self):
        return self.offers


@pytest.fixture(autouse=True)
def _own_host(athena_host: PluginHost, seed: int):
    _kernels.forget()
    LOG.clear()
    yield
    _kernels.forget()


def leaves():
    return torch.randn(3, 4, requires_grad=True), torch.randn(4, requires_grad=True)


@pytest.mark.parametrize(
    "kernel",
    [
        SQUARE,
        kernel_of(supports="fake_kernels:supports"),
        kernel_of(compiled=False, tolerance={"float64": 1e-14, "bfloat16": 4e-2}),
        kernel_of(autograd="OwnForward"),
        AXPY,
        POSITIVE,
    ],
    ids=["square", "with supports", "not compiled", "own forward", "axpy", "no gradient"],
)
def test_conformance(kernel):
    for check in kernel_checks(kernel):
        check()


@pytest.mark.parametrize(
    ("faulty", "caught_by"),
    [
        (kernel_of("wrong_value"), "forward equals the reference"),
        (kernel_of("ignores_strides"), "forward equals the reference"),
        (kernel_of("wrong_dtype"), "forward equals the reference"),
        (kernel_of("returns_argument"), "arguments stay as they are"),
        (kernel_of("wrong_layout"), "fake tensors tell the layout"),
        (kernel_of("wrong_signature"), "obeys the op's rules"),
        (kernel_of(autograd="ForgetsWeight"), "backward equals the reference"),
        (kernel_of(autograd="ZeroWeight"), "backward equals the reference"),
        (kernel_of(autograd="Untraceable"), "graph holds the op alone"),
        (kernel_of(autograd="ForwardOfOtherValue"), "output stays where a gradient is wanted"),
        (kernel_of(supports="fake_kernels:supports", tolerance={"bfloat16": 1}), "samples reach the kernel"),
    ],
    ids=lambda value: value.target + value.autograd if isinstance(value, Kernel) else "",
)
def test_conformance_catches(faulty, caught_by):
    (check,) = [check for check in kernel_checks(faulty) if check.name.endswith(caught_by)]
    with pytest.raises((AssertionError, RuntimeError)):  # a RuntimeError is torch's or the op's own
        check()


def test_first_call_installs_what_a_plugin_claims(athena_host):
    square(*leaves())
    assert LOG == ["reference"]
    athena_host.register(Plugin(SQUARE), "fast")
    square(*leaves())
    assert LOG == ["reference", "kernel"]


@pytest.mark.parametrize("mode", ["fake", "inference"])
def test_what_a_kernel_module_makes_on_import_is_of_no_mode(mode, tmp_path, monkeypatch):
    (tmp_path / f"late_{mode}.py").write_text(
        "import torch\nfrom fake_kernels import Formula, kernel\nTABLE = torch.arange(3.0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    late = Kernel("athena_test::square", "cpu", f"late_{mode}:kernel", autograd=f"late_{mode}:Formula")
    with offered(late), FakeTensorMode() if mode == "fake" else torch.inference_mode():
        square(torch.ones(2), torch.ones(2))
    table = importlib.import_module(f"late_{mode}").TABLE
    assert type(table) is torch.Tensor
    assert not table.is_inference()


@pytest.mark.parametrize("second", ["formula", "reference"])
def test_backward_is_the_formula_and_with_create_graph_the_reference(second):
    x, weight = leaves()
    with offered(SQUARE):
        out = square(x, weight)
        (gradient,) = torch.autograd.grad(out.sum(), x, create_graph=second == "reference")
    assert LOG[0] == "kernel"
    assert LOG[1:] == [second]
    assert torch.allclose(gradient, 2 * x * weight)
    if second == "reference":
        (hessian,) = torch.autograd.grad(gradient.sum(), weight)
        assert torch.allclose(hessian, (2 * x).sum(0))


def test_a_tensor_given_twice_gets_both_gradients():
    x = torch.randn(4, requires_grad=True)
    with offered(SQUARE):
        for create_graph in (False, True):
            (gradient,) = torch.autograd.grad(square(x, x).sum(), x, create_graph=create_graph)
            assert torch.allclose(gradient, 3 * x.square())


def test_a_formula_that_forgets_a_gradient_raises():
    """Without this, `weight.grad` would stay None and the weight would never learn."""
    with offered(kernel_of(autograd="ForgetsWeight")), pytest.raises(RuntimeError, match="no gradient"):
        square(*leaves()).sum().backward()


def test_a_formula_that_leaves_out_what_takes_no_gradient_is_told_how_many_it_must_return():
    formula = kernel_of(autograd="LeavesOutConstants")
    with offered(formula), pytest.raises(RuntimeError, match="for each of the op's 3 parameters; got 2"):
        square(*leaves()).sum().backward()


def test_a_formula_with_a_forward_of_its_own_runs_it_only_for_gradients():
    x, weight = leaves()
    with offered(kernel_of(autograd="OwnForward")):
        square(x.detach(), weight.detach())
        assert LOG == ["kernel"]
        out = square(x, weight)
        assert LOG == ["kernel", "own forward"]
        found = torch.autograd.grad(out.sum(), [x, weight])
    assert torch.allclose(found[0], 2 * x * weight)
    assert torch.allclose(found[1], x.square().sum(0))


def test_where_a_forward_of_its_own_fails_the_reference_is_differentiated():
    x, weight = leaves()
    with offered(kernel_of(autograd="FailingForward")):
        with pytest.warns(RuntimeWarning, match="no compiler"):
            out = square(x, weight)
        found = torch.autograd.grad(out.sum(), [x, weight])
    assert LOG == ["reference"]
    assert torch.allclose(found[0], 2 * x * weight)
    assert torch.allclose(found[1], x.square().sum(0))


def test_an_op_without_a_gradient_runs_its_kernel_also_for_what_requires_one():
    x = torch.randn(4, requires_grad=True)
    with offered(POSITIVE):
        found = positive(x)
    assert LOG == ["kernel"]
    assert not found.requires_grad
    assert torch.equal(found, x > 0)


def test_two_results():
    x = torch.randn(4, requires_grad=True)
    with offered(SPLIT):
        double, three = split(x)
        (gradient,) = torch.autograd.grad(double.sum() + three, x)
    assert LOG == ["kernel"]
    assert gradient.tolist() == [5.0] * 4


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_before_any_eager_call(dynamic):
    """The kernel is imported and installed while the graph is being lowered."""
    compiled = torch.compile(lambda x, w: square(x, w), backend="aot_eager", fullgraph=True, dynamic=dynamic)
    x, weight = leaves()
    try:
        with offered(SQUARE):
            compiled(x, weight).sum().backward()
            assert LOG[-1] == "kernel"
        assert torch.allclose(x.grad, 2 * x * weight)
    finally:
        torch._dynamo.reset()


def _repeat_reference(values, times):
    values[0].mul_(times.item())


repeat = op("athena_test::repeat(Tensor(a!)[] values, Tensor times) -> ()", reference=_repeat_reference)


def test_a_graph_needs_no_value_of_a_reference_that_returns_nothing():
    """A tracer has no values; the optimizers' references look at the number of steps."""

    def doubled(x, times):
        y = x + 1
        repeat([y], times)
        return y

    kernel = Kernel("athena_test::repeat", "cpu", "fake_kernels:repeat_kernel")
    try:
        with offered(kernel):
            compiled = torch.compile(doubled, backend="aot_eager", fullgraph=True)
            assert compiled(torch.ones(2), torch.tensor(3.0)).tolist() == [6.0, 6.0]
    finally:
        torch._dynamo.reset()
    assert LOG == ["kernel"]


def test_changed_arguments_are_seen_by_autograd():
    value = torch.randn(3)
    weight = torch.randn(3, requires_grad=True)
    with offered(AXPY):
        loss = (weight * value).sum()
        axpy([value], [torch.ones(3)])
        assert LOG == ["kernel"]
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_changing_a_leaf_raises_as_torch_does():
    with offered(AXPY), pytest.raises(RuntimeError, match="leaf"):
        axpy([torch.zeros(3, requires_grad=True)], [torch.ones(3)])


def test_disabled_kernels_run_the_reference():
    with offered(SQUARE):
        with kernels_disabled():
            expected = square(*leaves())
        assert LOG == ["reference"]
        with kernels_disabled(), torch.inference_mode():
            square(torch.ones(1), torch.ones(1))
        assert LOG == ["reference", "reference"]
        assert expected.grad_fn is not None


def test_views_of_other_bits_and_other_layouts_reach_the_kernel_resolved():
    x = torch.randn(3, dtype=torch.complex64).conj()
    with offered(SQUARE):
        found = square(x, torch.ones(3))
    assert torch.allclose(found, x * x + 1e-6)


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (Kernel("athena_test::square", "cpu", "fake_kernels:kernel"), "gradients would be lost"),
        (kernel_of("wrong_signature"), "must have the parameters"),
        (kernel_of("absent"), "AttributeError"),
        (Kernel("athena_test::square", "cpu", "no_such_module:f", autograd=FORMULA), "ModuleNotFoundError"),
    ],
    ids=["no formula", "signature", "absent", "module"],
)
def test_a_kernel_that_cannot_be_installed(kernel, why, athena_host, monkeypatch):
    athena_host.register(Plugin(kernel), "broken")
    (row,) = [row for row in kernels() if row.op == kernel.op]
    assert (row.runs, row.distribution) == ("reference", "broken")
    assert why in row.why
    with pytest.warns(RuntimeWarning, match=f"`broken` refused: .*{why}"):
        square(*leaves())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        square(*leaves())  # said once
    assert LOG == ["reference", "reference"]
    _kernels.forget()
    monkeypatch.setenv("ATHENA_STRICT", "1")
    with pytest.raises((ValueError, ImportError, AttributeError)) as raised:
        square(*leaves())
    assert why in describe(raised.value)


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (
            Kernel("athena_test::axpy", "cpu", "fake_kernels:axpy_kernel", autograd=FORMULA),
            "takes no `autograd`",
        ),
        (
            Kernel("athena_test::total", "cpu", "fake_kernels:total_kernel", autograd=FORMULA),
            "inside lists",
        ),
        (
            Kernel("athena_test::positive", "cpu", "fake_kernels:positive_kernel", autograd=FORMULA),
            "has no gradient",
        ),
    ],
    ids=["mutating with formula", "list with formula", "formula without gradient"],
)
def test_what_no_kernel_may_be(kernel, why):
    with pytest.raises(ValueError, match=why):
        _kernels.load(_kernels.OPS[kernel.op], kernel)


def test_kernels_for_meta_tensors_are_refused():
    """Shapes come from the reference; torch itself refuses the registration."""
    with (
        offered(Kernel("athena_test::square", "meta", "fake_kernels:kernel", autograd=FORMULA)),
        pytest.warns(RuntimeWarning, match="meta"),
    ):
        square(torch.empty(2, device="meta"), torch.empty(2, device="meta"))


def test_table(athena_host):
    athena_host.register(
        Plugin(SQUARE, Kernel("athena_test::square", "xpu", "fake_kernels:kernel", autograd=FORMULA)), "fast"
    )
    square(*leaves())
    rows = {(row.op, row.device): (row.runs, row.distribution, row.why) for row in kernels()}
    assert rows["athena_test::square", "cpu"] == ("kernel", "fast", "installed")
    assert rows["athena_test::square", "xpu"] == ("kernel", "fast", "installed at the first call on xpu")
    assert rows["athena_test::axpy", "any"] == ("reference", "", "no plugin offers a kernel")


def test_a_device_type_that_torch_does_not_know(athena_host):
    """Pitfall 5: torch would say so when the kernel is registered, at a first call that never comes."""
    gpu = Kernel("athena_test::square", "gpu", "fake_kernels:kernel", autograd=FORMULA)
    athena_host.register(Plugin(gpu), "hopeful")
    square(*leaves())
    (row,) = [row for row in kernels() if row.device == "gpu"]
    assert (row.runs, row.why) == ("reference", "ValueError: this torch knows no device type 'gpu'.")


def test_defining_an_op_again_keeps_its_kernels(athena_host):
    """Pitfall 4: torch's own `custom_op` would drop them in silence."""

    def same(x):
        return x * 1

    schema = "athena_test::kept(Tensor x) -> Tensor"
    op(schema, reference=same)
    athena_host.register(
        Plugin(Kernel("athena_test::kept", "cpu", "fake_kernels:kept_kernel", autograd=FORMULA)), "keeper"
    )
    for _ in range(2):
        torch.ops.athena_test.kept(torch.ones(2))
        op(schema, reference=same)(torch.ones(2))
    assert LOG == ["kernel"] * 4


def test_two_distributions_cannot_claim_one_device(athena_host):
    """Pitfall 3: torch itself would let the last one win."""
    athena_host.register(Plugin(SQUARE), "first")
    with pytest.raises(Exception, match="first"):
        athena_host.register(Plugin(SQUARE), "second")
    assert [offer.distribution for offer in athena_host.kernels()] == ["first"]


def test_a_kernel_for_another_device_leaves_this_one_alone():
    with offered(Kernel("athena_test::square", "xpu", "no_such_module:f", autograd=FORMULA)):
        square(*leaves())
    assert LOG == ["reference"]

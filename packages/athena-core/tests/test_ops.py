"""Ops: defined in the dispatcher, differentiable everywhere through their reference."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from fake_kernels import LOG, axpy, square, total

from athena_core import _kernels, op
from athena_core._host import PluginHost
from athena_core.testing._kernels import called, lowering


@pytest.fixture(autouse=True)
def _no_plugins(athena_host: PluginHost, seed: int):
    _kernels.forget()
    LOG.clear()
    yield
    _kernels.forget()


def _halve(x, by=2.0):
    return x / by


halve = op("athena_test::halve(Tensor x, float by=2.0) -> Tensor", reference=_halve)


@pytest.mark.parametrize("call", [halve, torch.ops.athena_test.halve], ids=["function", "dispatcher"])
def test_defaults_and_keywords(call):
    x = torch.tensor([2.0, 4.0])
    assert call(x).tolist() == [1.0, 2.0]
    assert call(x=x, by=4.0).tolist() == [0.5, 1.0]
    assert call(x, by=1.0).tolist() == [2.0, 4.0]


@pytest.mark.parametrize("call", [square, torch.ops.athena_test.square], ids=["function", "dispatcher"])
def test_reference_is_differentiable_and_transforms(call):
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, (x, weight))
    assert torch.autograd.gradgradcheck(call, (x, weight))
    rows = torch.vmap(call, in_dims=(0, None))(x, weight)
    assert torch.equal(rows, call(x, weight))
    gradient = torch.func.grad(lambda x: call(x, weight.detach()).sum())(x.detach())
    assert torch.allclose(gradient, 2 * x * weight)


def test_meta_and_fake_tensors_run_the_reference():
    from torch._subclasses.fake_tensor import FakeTensorMode

    assert square(torch.empty(3, 4, device="meta"), torch.empty(4, device="meta")).shape == (3, 4)
    with FakeTensorMode():
        assert square(torch.empty(3, 4), torch.empty(4)).shape == (3, 4)


def test_without_a_kernel_the_graph_decomposes():
    backend, graphs = lowering()
    compiled = torch.compile(lambda x, w: square(x, w), backend=backend, fullgraph=True)
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(4)
    compiled(x, weight).sum().backward()
    assert torch.allclose(x.grad, 2 * x * weight)
    assert {name.partition(".")[0] for graph in graphs for name in called(graph)} == {"aten"}


class Square(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.square = square

    def forward(self, x, weight):
        return self.square(x, weight)


def test_a_module_that_holds_an_op_copies_and_pickles():
    module = Square()
    assert copy.deepcopy(module).square is square
    assert pickle.loads(pickle.dumps(square)) is square


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return square(torch.full((2,), float(index)), torch.ones(2), 0.0)


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_forked_data_loader_workers():
    loader = torch.utils.data.DataLoader(Rows(), batch_size=4, num_workers=1, multiprocessing_context="fork")
    (batch,) = loader
    assert batch[:, 0].tolist() == [0.0, 1.0, 4.0, 9.0]


def test_list_of_no_tensors():
    axpy([], [])
    assert LOG == ["reference"]
    assert total([torch.ones(2), torch.ones(3)]) == 5


def test_an_op_without_tensor_arguments():
    ones = op("athena_test::ones(int n) -> Tensor", reference=lambda n: torch.ones(n))
    assert ones(3).shape == (3,)
    assert ones(n=2).shape == (2,)


def test_defining_again_replaces_the_reference():
    """A reloaded module defines its ops again."""

    def first(x):
        return x

    def second(x):
        return x + 1

    schema = "athena_test::again(Tensor x) -> Tensor"
    op(schema, reference=first)
    again = op(schema, reference=second)
    zero = torch.zeros(1)
    assert again(zero) == torch.ops.athena_test.again(zero) == 1


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("athena_test::halve(Tensor x, float by=3.0) -> Tensor", "parameters and defaults"),
        ("athena_test::halve(Tensor y, float by=2.0) -> Tensor", "parameters and defaults"),
        ("athena_test::halve(Tensor x, *, float by=2.0) -> Tensor", "keyword-only"),
        ("athena_test::halve(Tensor(a) x, float by=2.0) -> Tensor(a)", "alias"),
        ("athena_test::square(Tensor x, float by=2.0) -> Tensor", "has defined it"),
    ],
)
def test_mistakes_in_a_definition(schema, said):
    with pytest.raises(ValueError, match=said):
        op(schema, reference=_halve)


def test_plugins_are_asked_at_the_first_call_and_not_before():
    code = (
        "import athena_core, torch; from athena_core import _host, op;"
        "host = _host.default_host();"
        "f = op('athena_test::lazy(Tensor x) -> Tensor', reference=lambda x: x);"
        "assert host._undiscovered; f(torch.ones(1)); assert not host._undiscovered"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

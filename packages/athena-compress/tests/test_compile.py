"""`torch.compile` of quantized models without a graph break: the numbers of eager mode."""

from __future__ import annotations

import pytest
import torch
from quantized import SCHEMES, every_layer, quantized
from torch import nn
from user_models import ResNet, TiedModel


def compiled(model, backend="aot_eager", **options):
    torch.compiler.reset()
    return torch.compile(model, fullgraph=True, backend=backend, **options)


@pytest.mark.parametrize("scheme", SCHEMES)
@torch.no_grad()
def test_every_layer(scheme):
    model, tokens = every_layer(scheme)
    assert torch.equal(compiled(model)(tokens), model(tokens))


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
@torch.no_grad()
def test_after_a_call_and_with_a_free_batch(scheme):
    x = torch.randn(4, 3, 8, 8)
    model = quantized(ResNet().eval(), scheme, x)
    model(x)  # lays out weights, which a compiler cannot look into
    found = compiled(model, dynamic=True)
    for batch in (4, 2, 7):
        x = torch.randn(batch, 3, 8, 8)
        assert torch.equal(found(x), model(x))


@pytest.mark.parametrize("scheme", ["static", "dynamic", "weight-only"])
@torch.no_grad()
def test_a_transformer(scheme):
    tokens = torch.randint(17, (2, 5))
    model = quantized(TiedModel().eval(), scheme, tokens)
    torch.testing.assert_close(compiled(model)(tokens), model(tokens))


def test_gradients_of_inputs():
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    model = quantized(ResNet().eval(), "static", x.detach())
    (expected,) = torch.autograd.grad(model(x).square().sum(), x)
    (found,) = torch.autograd.grad(compiled(model)(x).square().sum(), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize("scheme", ["static", "dynamic"])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_a_single_row_through_inductor(scheme, bias):
    # which gives a row after a reshape the stride 0, and torch's int8 product takes that at its word (2.13)
    layer = quantized(nn.Sequential(nn.Linear(64, 48, bias=bias)), scheme, torch.randn(9, 64))[0]
    for shape in ((1, 64), (1, 1, 64), (1, 1, 1, 64)):
        x = torch.randn(shape)
        assert torch.equal(compiled(layer, backend="inductor")(x), layer(x))

"""Activations against plain Python, their identities, and the laws that catch broken parts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from athena_core import Component
from athena_nn import GEGLU, GELUTanh, RMSNorm, SwiGLU, geglu, swiglu
from athena_nn._activations import _samples
from athena_nn._part_laws import activation_checks, norm_checks

PLAIN = {
    swiglu: lambda gate: gate / (1 + math.exp(-gate)),
    geglu: lambda gate: gate * (1 + math.erf(gate / math.sqrt(2))) / 2,
}


@pytest.mark.parametrize("op", PLAIN)
def test_equals_plain_python(op, dtype, tolerance):
    for (gate_up,) in _samples("cpu", dtype, torch.Generator().manual_seed(0)):
        width = gate_up.shape[-1] // 2
        expected = torch.tensor(
            [
                [PLAIN[op](gate) * up for gate, up in zip(row[:width], row[width:], strict=True)]
                for row in gate_up.flatten(0, -2).tolist()
            ],
            dtype=torch.float64,
        ).reshape(*gate_up.shape[:-1], width)
        y = op(gate_up)
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), expected, **tolerance)


@pytest.mark.parametrize("op", PLAIN)
def test_gradcheck_twice(op):
    gate_up = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(op, (gate_up,))
    assert torch.autograd.gradgradcheck(op, (gate_up,))


@pytest.mark.parametrize("op", PLAIN)
def test_works_under_func_and_compile(op):
    x = torch.randn(5, 3, 8)
    whole = op(x)
    torch.testing.assert_close(torch.func.vmap(op)(x), whole)
    slopes = torch.func.vmap(torch.func.grad(lambda row: op(row).sum()))(x)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(slopes, torch.autograd.grad(op(leaf).sum(), leaf)[0])
    torch.testing.assert_close(torch.compile(op, fullgraph=True, backend="aot_eager")(x), whole)


@pytest.mark.parametrize("op", PLAIN)
def test_what_is_not_finite_stays_in_its_element(op):
    x = torch.randn(2, 8)
    x[0, 1] = torch.nan
    y = op(x)
    assert y[0, 1].isnan()
    assert y.isfinite().sum() == y.numel() - 1


@pytest.mark.parametrize("op", PLAIN)
def test_an_odd_axis_is_refused(op):
    with pytest.raises(ValueError, match=r"even; got \(2, 5\)"):
        op(torch.ones(2, 5))


@pytest.mark.parametrize(("layer", "op"), [(SwiGLU, swiglu), (GEGLU, geglu)])
def test_the_gated_layers_are_their_ops(layer, op):
    x = torch.randn(3, 8)
    assert layer.gated
    assert torch.equal(layer()(x), op(x))


def test_gelu_by_tanh_is_torchs_and_near_the_exact_one():
    x = torch.linspace(-4, 4, 33)
    assert torch.equal(GELUTanh()(x), F.gelu(x, approximate="tanh"))
    # largest distance of the two forms, 4.73e-4 near 2.3
    torch.testing.assert_close(GELUTanh()(x), F.gelu(x), rtol=0, atol=5e-4)


def test_an_open_gate_leaves_one_layer():
    """With an up half of ones, a gated activation is its gate's own."""
    gate = torch.randn(3, 4)
    gate_up = torch.cat((gate, torch.ones(3, 4)), dim=-1)
    torch.testing.assert_close(swiglu(gate_up), F.silu(gate))
    torch.testing.assert_close(geglu(gate_up), F.gelu(gate))


class InPlace(nn.Module):
    """Saves memory where it should not."""

    def forward(self, x):
        return x.relu_()


class AcrossRows(nn.Module):
    """Centres over the batch."""

    def __init__(self, width=0):
        super().__init__()

    def forward(self, x):
        return x - x.mean(0)


class Wide(nn.Module):
    """Is gated, and does not say so."""

    def forward(self, x):
        return swiglu(x)


class Reversing(nn.Module):
    """Gates each element with another one's gate."""

    gated = True

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return gate.flip(-1) * up


class LowPrecision(RMSNorm):
    """Squares in the dtype of the rows, where float16 overflows."""

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class NoScale(nn.Module):
    """Leaves the scale of rows as it was."""

    def __init__(self, width):
        super().__init__()

    def forward(self, x):
        return x - x.mean(-1, keepdim=True)


@pytest.mark.parametrize(
    ("checks", "part", "law"),
    [
        (activation_checks, InPlace, "leaves its input as it is"),
        (activation_checks, AcrossRows, "treats rows alone"),
        (activation_checks, Wide, "keeps rows, width and dtype, float32"),
        (activation_checks, Reversing, "acts on each element alone, with its gate"),
        (norm_checks, AcrossRows, "treats rows alone"),
        (norm_checks, LowPrecision, "survives rows of zeros and large rows in half precision"),
        (norm_checks, NoScale, "undoes the scale of a row"),
    ],
)
def test_broken_parts_fail_their_law(checks, part, law):
    kind = "norm" if checks is norm_checks else "activation"
    (check,) = [
        one
        for one in checks(Component(kind, "broken", "tests:broken", "Breaks a law"), part)
        if one.name == law
    ]
    with pytest.raises(AssertionError):
        check()


def test_sound_parts_pass_all_laws():
    for checks, part in ((norm_checks, RMSNorm), (activation_checks, GELUTanh), (activation_checks, SwiGLU)):
        for check in checks(Component("norm", "sound", "tests:sound", "Keeps the laws"), part):
            check()

"""Linear layers in int8: their formula, their kernels, and what a row depends on."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from athena_compress import (
    Grid,
    Int8Dynamic,
    Int8Linear,
    Quantized,
    _int8_layer,
    int8_linear,
    quantize,
    quantize_affine,
)
from athena_compress._int8_layer import static_codes
from athena_compress._int8_math import MOST_TERMS
from athena_compress._scheme import NotQuantizable


def drawn(terms: int, outputs: int, *, static: bool, bias: bool = True, zero_point: int = 119) -> Int8Linear:
    weight = torch.randint(-127, 128, (outputs, terms), dtype=torch.int8)
    grid = (torch.tensor(0.031), torch.tensor(zero_point, dtype=torch.int32)) if static else (None, None)
    return Int8Linear(
        nn.Linear(terms, outputs, bias=bias), Quantized(weight, torch.rand(outputs) + 0.01, *grid)
    )


def by_op(layer: Int8Linear, x: torch.Tensor) -> torch.Tensor:
    grid = layer.input_scale, layer.input_zero_point
    return int8_linear(x, layer.weight_q, layer.weight_scale, layer.bias, *grid)


def by_hand(layer: Int8Linear, x: torch.Tensor) -> torch.Tensor:
    """The formula of `int8_linear`, with sums of int64."""
    weight, bias = layer.weight_q.long(), 0 if layer.bias is None else layer.bias
    if layer.input_scale is None:
        scale = (x.abs().amax(-1, keepdim=True) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        codes = (x * (1 / scale)).round().long()
        return (codes @ weight.t()).float() * layer.weight_scale * scale + bias
    zero_point = layer.input_zero_point.item()
    codes = ((x * (1 / layer.input_scale)).round() + zero_point).clamp(0, 255).long() - zero_point
    return (codes @ weight.t()).float() * (layer.input_scale * layer.weight_scale) + bias


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("terms", [1, 2, 7, 64, 1500])
@pytest.mark.parametrize("rows", [0, 1, 2, 19])
def test_kernel_op_and_formula_agree_to_the_bit(rows, terms, bias, static):
    layer = drawn(terms, 5, static=static, bias=bias)
    x = torch.randn(rows, terms) * 3
    expected = by_hand(layer, x)
    assert torch.equal(layer(x), expected)
    assert torch.equal(by_op(layer, x), expected)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_without_exact_kernels_the_plain_products_run(static, monkeypatch):
    layer, x = drawn(33, 6, static=static), torch.randn(4, 33)
    expected = layer(x)
    monkeypatch.setattr(_int8_layer, "has_exact_int8", lambda: False)
    monkeypatch.setattr("athena_compress._int8_math.has_exact_int8", lambda: False)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_a_row_depends_on_no_other_row(static):
    layer, x = drawn(96, 40, static=static), torch.randn(37, 96)
    together = layer(x)
    for row in (0, 17, 36):
        assert torch.equal(layer(x[row : row + 1])[0], together[row])
        assert torch.equal(layer(x[row]), together[row])
    assert torch.equal(layer(x[3:9]), together[3:9])


@given(
    st.floats(-(2.0**99), 2.0**99, width=32),
    st.floats(2**-20, 2**20, width=32),
    st.integers(0, 255),
)
def test_static_codes_are_those_of_the_grid(value, scale, zero_point):
    halves = scale * (torch.arange(300) - 150.5)
    x = torch.cat([torch.tensor([value, 0.0, -value]), halves])
    step, zero = torch.tensor(scale), torch.tensor(zero_point)
    expected = quantize_affine(x, step, zero, Grid(signed=False, symmetric=False))
    assert torch.equal(static_codes(x, step.reciprocal(), zero_point).int() + 128, expected.int())


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_shapes_strides_and_dtypes(static):
    layer, x = drawn(6, 4, static=static), torch.randn(3, 6, 5)
    expected = layer(x.transpose(1, 2).contiguous())
    assert expected.shape == (3, 5, 4)
    assert torch.equal(layer(x.transpose(1, 2)), expected)
    for dtype in (torch.float16, torch.bfloat16):
        narrow = x.transpose(1, 2).to(dtype)
        assert torch.equal(layer(narrow), layer(narrow.float()).to(dtype))  # pitfall 4: sums are not narrow
        assert torch.equal(by_op(layer, narrow), layer(narrow))
    wide = by_op(layer, x.transpose(1, 2).double())
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), expected, rtol=1e-2, atol=2.0)  # a code may be rounded otherwise


def test_zero_rows_are_zero_and_nan_stays_in_its_row():
    layer = drawn(8, 3, static=False, bias=False)
    x = torch.randn(4, 8)
    x[0], x[1, 2], x[2, 5] = 0, float("nan"), float("inf")
    y = layer(x)
    assert torch.equal(y[0], torch.zeros(3))
    assert not y[1].isfinite().any()
    assert not y[2].isfinite().any()
    assert torch.equal(y[3], layer(x[3]))


def test_all_zero_weights_and_constant_inputs():
    linear = nn.Linear(4, 3)
    nn.init.zeros_(linear.weight)  # pitfall 2: a channel that was pruned has scale 0 nowhere
    layer = quantize(linear)
    assert (layer.weight_scale > 0).all()
    assert torch.equal(layer(torch.ones(2, 4)), linear.bias.expand(2, 3))


def test_weights_are_within_half_a_step():
    linear = nn.Linear(50, 20)
    layer = quantize(linear)
    error = (layer.weight - linear.weight).abs()
    assert (error <= layer.weight_scale[:, None] * 0.5 * (1 + 1e-5)).all()
    assert layer.weight_q.abs().max() <= 127


def test_the_gradient_is_that_of_the_dequantized_layer():
    layer = drawn(7, 4, static=False)
    x = torch.randn(3, 7, requires_grad=True)
    layer(x).square().sum().backward()
    y = layer(x.detach())
    expected = 2 * y @ layer.weight
    torch.testing.assert_close(x.grad, expected)
    assert torch.equal(layer(x).detach(), y) or torch.allclose(layer(x).detach(), y, rtol=1e-6, atol=1e-6)


def test_the_gradient_of_the_scales_is_that_of_the_dequantized_layer_too():
    """Also where the input has none."""
    layer, x = drawn(7, 4, static=False), torch.randn(3, 7)
    scale = layer.weight_scale.clone().requires_grad_()
    y = int8_linear(x, layer.weight_q, scale, layer.bias)
    y.sum().backward()
    torch.testing.assert_close(scale.grad, (x @ layer.weight_q.float().t()).sum(0))
    torch.testing.assert_close(y.detach(), by_op(layer, x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's forward mode uses its own torch.jit
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_the_tangent_is_that_of_the_dequantized_layer(static):
    layer, x, direction = drawn(7, 4, static=static), torch.randn(3, 7), torch.randn(3, 7)
    with torch.autograd.forward_ad.dual_level():
        y = by_op(layer, torch.autograd.forward_ad.make_dual(x, direction))
        value, tangent = torch.autograd.forward_ad.unpack_dual(y)
    torch.testing.assert_close(tangent, direction @ layer.weight.t())
    torch.testing.assert_close(value, by_op(layer, x))


def test_vmap_sees_the_reference():
    layer, x = drawn(7, 4, static=False), torch.randn(5, 2, 7)
    assert torch.equal(torch.func.vmap(layer)(x), layer(x))


def test_copies_and_loading_forget_the_laid_out_weights():
    layer, x = drawn(9, 4, static=True), torch.randn(3, 9)
    expected = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    other = drawn(9, 4, static=True, zero_point=7)
    other(x)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), expected)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True).keys() == layer.state_dict().keys()


def test_a_cast_leaves_the_scales_alone():
    layer, x = drawn(9, 4, static=True), torch.randn(3, 9).bfloat16()
    scale = layer.weight_scale.clone()
    expected = layer(x)
    layer.bfloat16()
    assert torch.equal(layer.weight_scale, scale)
    assert layer.bias.dtype == torch.bfloat16
    torch.testing.assert_close(layer(x), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_cast_forgets_the_laid_out_layer(rows, static):
    layer, x = drawn(9, 40, static=static), torch.randn(rows, 9)
    before = layer(x)  # lays out what a copy does not take along
    layer.bfloat16()
    assert torch.equal(layer(x), copy.deepcopy(layer)(x))
    assert not torch.equal(layer(x), before)  # the bias is another


def test_sums_that_int32_could_not_hold_stay_in_float():
    with pytest.raises(NotQuantizable, match="could overflow int32"):
        Int8Dynamic().quantize(nn.Linear(MOST_TERMS + 1, 1, bias=False))
    assert isinstance(Int8Dynamic().quantize(nn.Linear(MOST_TERMS, 1, bias=False)), Int8Linear)


def test_another_width_is_refused():
    with pytest.raises(ValueError, match=r"`input` must have shape \(\.\.\., 3\); got \(2, 4\)"):
        drawn(3, 2, static=False)(torch.zeros(2, 4))


def test_close_to_float():
    linear, x = nn.Linear(256, 64), torch.randn(32, 256)
    expected = linear(x)
    error = (quantize(linear)(x) - expected).norm() / expected.norm()
    assert error < 0.02
    assert F.cosine_similarity(quantize(linear, per_channel=False)(x), expected).min() > 0.999

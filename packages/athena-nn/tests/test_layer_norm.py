"""`layer_norm` against plain Python, torch's own, and its defining laws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from athena_nn import LayerNorm, layer_norm
from athena_nn._layer_norm import _samples


def plain_layer_norm(row: list[float], weight: list[float], bias: list[float], eps: float) -> list[float]:
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row) + eps)
    return [(x - mean) / deviation * w + b for x, w, b in zip(row, weight, bias, strict=True)]


def test_equals_plain_python(dtype, tolerance):
    """Half precision too: mean and variance are accumulated in float32."""
    for x, weight, bias, eps in _samples("cpu", dtype, torch.Generator().manual_seed(0)):
        shift = torch.zeros_like(weight) if bias is None else bias
        rows = x.reshape(-1, x.shape[-1]).tolist()
        expected = [plain_layer_norm(row, weight.tolist(), shift.tolist(), eps) for row in rows]
        y = layer_norm(x, weight, bias, eps)
        assert y.dtype == dtype
        torch.testing.assert_close(
            y, torch.tensor(expected, dtype=torch.float64).reshape(x.shape).to(dtype), **tolerance
        )


@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck_twice(bias):
    x, weight, shift = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4), (4,), (4,))
    )
    args = (x, weight, shift if bias else None, 1e-5)
    assert torch.autograd.gradcheck(layer_norm, args)
    assert torch.autograd.gradgradcheck(layer_norm, args)


def test_works_under_func_and_compile():
    x, weight, bias = torch.randn(5, 3, 8), torch.randn(8), torch.randn(8)
    whole = layer_norm(x, weight, bias, 1e-5)
    batched = torch.func.vmap(lambda row: layer_norm(row, weight, bias, 1e-5))(x)
    torch.testing.assert_close(batched, whole)
    compiled = torch.compile(layer_norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight, bias, 1e-5), whole)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_row(bad):
    x = torch.randn(3, 4)
    x[1, 2] = bad
    y = layer_norm(x, torch.ones(4), None, 1e-5)
    assert y[1].isnan().any()
    assert y[[0, 2]].isfinite().all()


def test_a_shift_of_the_input_does_not_matter():
    x, weight = torch.randn(3, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    torch.testing.assert_close(layer_norm(x + 100, weight, None, 1e-5), layer_norm(x, weight, None, 1e-5))


@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_equals_torchs_with_its_state(bias):
    ours, theirs = LayerNorm(6, eps=1e-3, bias=bias), nn.LayerNorm(6, eps=1e-3, bias=bias)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_made_on_meta_is_reset_to_gains_of_one_and_biases_of_zero(bias):
    with torch.device("meta"):
        layer = LayerNorm(6, bias=bias)
    layer = layer.to_empty(device="cpu")
    for parameter in layer.parameters():
        nn.init.constant_(parameter, torch.nan)  # as what memory held before
    layer.reset_parameters()
    assert torch.equal(layer.weight, torch.ones(6))
    assert torch.equal(layer.bias, torch.zeros(6)) if bias else layer.bias is None


@pytest.mark.parametrize(
    ("options", "message"), [({"width": 0}, "`width`"), ({"width": 3, "eps": -1.0}, "`eps`")]
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LayerNorm(**options)


def test_a_gain_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"\(3,\) for x of \(2, 4\)"):
        layer_norm(torch.ones(2, 4), torch.ones(3), None, 1e-5)

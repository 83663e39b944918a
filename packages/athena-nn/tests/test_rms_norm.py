"""`rms_norm` against plain Python, torch's own, and its defining laws."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from athena_nn import RMSNorm, rms_norm
from athena_nn._rms_norm import _samples


def plain_rms_norm(row: list[float], weight: list[float], eps: float) -> list[float]:
    scale = math.sqrt(sum(x * x for x in row) / len(row) + eps)
    return [x / scale * w for x, w in zip(row, weight, strict=True)]


def test_equals_plain_python():
    x, weight = torch.randn(5, 7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    expected = [plain_rms_norm(row, weight.tolist(), 1e-5) for row in x.tolist()]
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), torch.tensor(expected, dtype=torch.float64))


def test_equals_torch_on_all_samples(dtype, tolerance):
    """Forward and backward; the samples that kernels are compared on, so they are tried too."""
    for x, weight, eps in _samples("cpu", dtype, torch.Generator().manual_seed(0)):
        ours, theirs = (
            (x.clone().requires_grad_(), weight.clone().requires_grad_()),
            (
                x.clone().requires_grad_(),
                weight.clone().requires_grad_(),
            ),
        )
        y = rms_norm(*ours, eps)
        assert y.dtype == dtype
        expected = F.rms_norm(theirs[0], weight.shape, theirs[1], eps)
        torch.testing.assert_close(y, expected, **tolerance)
        upstream = torch.randn_like(y)
        gradients = torch.autograd.grad(y, ours, upstream)
        expected_gradients = torch.autograd.grad(expected, theirs, upstream)
        for ours_grad, theirs_grad in zip(gradients, expected_gradients, strict=True):
            # relative to the largest: rows of 1e-3 have gradients near 1e3, and bf16 sums cancel
            scale = theirs_grad.abs().max().clamp(min=1).item() if theirs_grad.numel() else 1.0
            torch.testing.assert_close(ours_grad / scale, theirs_grad / scale, **tolerance)


def test_gradcheck_twice():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rms_norm, (x, weight, 1e-6))
    assert torch.autograd.gradgradcheck(rms_norm, (x, weight, 1e-6))


def test_scale_of_the_input_does_not_matter():
    x, weight = torch.randn(3, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    torch.testing.assert_close(rms_norm(1000 * x, weight, 0.0), rms_norm(x, weight, 0.0))
    torch.testing.assert_close(rms_norm(-x, weight, 0.0), -rms_norm(x, weight, 0.0))


def test_half_precision_does_not_overflow():
    """300 squared overflows float16; the mean square is taken in float32."""
    x = torch.full((2, 64), 300.0, dtype=torch.float16)
    assert torch.equal(rms_norm(x, torch.ones(64, dtype=torch.float16), 1e-6), torch.ones_like(x))


def test_a_row_of_zeros_stays_zero_with_finite_gradients():
    x = torch.zeros(2, 4, requires_grad=True)
    y = rms_norm(x, torch.ones(4), 1e-6)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(2, 4))
    assert torch.isfinite(x.grad).all()


def test_works_under_func_and_compile():
    x, weight = torch.randn(5, 3, 8), torch.randn(8)
    whole = rms_norm(x, weight, 1e-6)
    batched = torch.func.vmap(lambda row: rms_norm(row, weight, 1e-6))(x)
    torch.testing.assert_close(batched, whole)
    compiled = torch.compile(rms_norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight, 1e-6), whole)


def test_the_layer_holds_a_gain():
    layer = RMSNorm(6, eps=1e-3)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    x = torch.randn(2, 6)
    assert torch.equal(layer(x), rms_norm(x, torch.ones(6), 1e-3))


@pytest.mark.parametrize(
    ("options", "message"), [({"width": 0}, "`width`"), ({"width": 3, "eps": -1.0}, "`eps`")]
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RMSNorm(**options)

"""`rms_norm` against plain Python, torch's own, and its defining laws."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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


def test_gradcheck_twice_batched_and_forward_mode():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, dtype=torch.float64, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's forward mode uses its own torch.jit
        assert torch.autograd.gradcheck(
            rms_norm, (x, weight, 1e-6), check_batched_grad=True, check_forward_ad=True
        )
    assert torch.autograd.gradgradcheck(rms_norm, (x, weight, 1e-6), check_batched_grad=True)


def test_one_tensor_as_both_arguments_has_both_gradients():
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rms_norm(x, x, 1e-6), (x,))
    assert torch.autograd.gradgradcheck(lambda x: rms_norm(x, x, 1e-6), (x,))


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_argument_gets_no_gradient(frozen):
    both = torch.randn(3, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    every = torch.autograd.grad(rms_norm(*both, 1e-6).sum(), both)
    args = [one.detach().requires_grad_(i != frozen) for i, one in enumerate(both)]
    rms_norm(*args, 1e-6).sum().backward()
    assert args[frozen].grad is None
    torch.testing.assert_close(args[1 - frozen].grad, every[1 - frozen])


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_gain_and_input_may_differ_in_dtype(dtypes):
    x, weight = (
        torch.randn(shape).to(dtype).requires_grad_()
        for shape, dtype in zip(((3, 8), (8,)), dtypes, strict=True)
    )
    y = rms_norm(x, weight, 1e-6)
    expected = rms_norm(x.double(), weight.double(), 1e-6)
    assert y.dtype == x.dtype
    torch.testing.assert_close(y.double(), expected, rtol=1e-2, atol=1e-2)
    for one, other in zip(
        torch.autograd.grad(y.sum(), (x, weight)),
        torch.autograd.grad(expected.sum(), (x, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


def test_backward_inside_autocast_stays_in_float32():
    """Autocast would make the sums over rows in bfloat16."""
    x, weight = torch.randn(64, 32, requires_grad=True), torch.randn(32, requires_grad=True)
    expected = torch.autograd.grad(rms_norm(x, weight, 1e-6).sum(), (x, weight))
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(rms_norm(x, weight, 1e-6).sum(), (x, weight))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_row(bad):
    x = torch.randn(3, 4)
    x[1, 2] = bad
    y = rms_norm(x, torch.ones(4), 1e-6)
    assert y[1].isnan().any()
    assert y[[0, 2]].isfinite().all()


def test_keeps_no_more_than_its_inputs_and_a_number_a_row():
    saved = []

    def keep(one):
        saved.append(one)
        return one

    x, weight = torch.randn(6, 8, requires_grad=True), torch.ones(8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        rms_norm(x, weight, 1e-6)
    assert sorted(one.numel() for one in saved) == [6, 8, 48]


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


def test_transforms_equal_the_plain_call():
    x, weight = torch.randn(5, 3, 8), torch.randn(8)

    def loss(x, weight):
        return rms_norm(x, weight, 1e-6).square().sum(0).cos().sum()

    expected = [torch.func.grad(loss, (0, 1))(row, weight) for row in x]
    own = [one.clone().requires_grad_() for one in (x[0], weight)]
    for one, other in zip(expected[0], torch.autograd.grad(loss(*own), own), strict=True):
        torch.testing.assert_close(one, other)
    batched = torch.func.vmap(torch.func.grad(loss, (0, 1)), in_dims=(0, None))(x, weight)
    for found, rows in zip(batched, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(rows))
    torch.testing.assert_close(
        torch.func.vmap(rms_norm, in_dims=(0, None, None))(x, weight, 1e-6), rms_norm(x, weight, 1e-6)
    )


def test_compiles_whole_forward_and_backward():
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    compiled = torch.compile(rms_norm, fullgraph=True, backend="aot_eager")
    y, expected = compiled(x, weight, 1e-6), rms_norm(x, weight, 1e-6)
    torch.testing.assert_close(y, expected)
    for one, other in zip(
        torch.autograd.grad(y.sum(), (x, weight)),
        torch.autograd.grad(expected.sum(), (x, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_a_gain_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"\(1,\) for x of \(2, 4\)"):
        rms_norm(torch.ones(2, 4), torch.ones(1), 1e-6)


def test_the_layer_holds_a_gain():
    layer = RMSNorm(6, eps=1e-3)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    x = torch.randn(2, 6)
    assert torch.equal(layer(x), rms_norm(x, torch.ones(6), 1e-3))


def test_a_layer_made_on_meta_is_reset_to_gains_of_one():
    with torch.device("meta"):
        layer = RMSNorm(6)
    layer = layer.to_empty(device="cpu")
    nn.init.constant_(layer.weight, torch.nan)  # as what memory held before
    layer.reset_parameters()
    assert torch.equal(layer.weight, torch.ones(6))
    assert layer.weight.requires_grad


@pytest.mark.parametrize(
    ("options", "message"), [({"width": 0}, "`width`"), ({"width": 3, "eps": -1.0}, "`eps`")]
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RMSNorm(**options)

"""Fake quantization, forward and backward, against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athena_compress import Grid, choose_qparams, fake_quantize

GRIDS = [
    Grid(bits, signed, symmetric)
    for bits in (2, 4, 8)
    for signed in (True, False)
    for symmetric in (True, False)
]
#: Beyond 2^63 codes torch's conversion to an integer overflows, and its result is the wrong end of the grid.
MOST_CODES = 2.0**62


def with_gradient(function, x, *args):
    x = x.detach().clone().requires_grad_()
    y = function(x, *args)
    y.backward(torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape))
    return y.detach(), x.grad


@pytest.mark.parametrize("grid", GRIDS)
@settings(max_examples=60)
@given(
    x=st.lists(
        st.floats(-(2.0**126), 2.0**126, width=32) | st.floats(-3, 3, width=32), min_size=1, max_size=30
    ),
    reach=st.sampled_from([0.0, 1e-40, 1e-3, 1.0, 1e3, 1e38]),
    shift=st.sampled_from([-1.0, 0.0, 0.3, 1.0]),
)
def test_equals_torch(grid, x, reach, shift):
    x = torch.tensor(x)
    low, high = torch.tensor(min(shift - 1, 0.0) * reach), torch.tensor(max(shift + 1, 0.0) * reach)
    scale, zero_point = choose_qparams(low, high, grid)
    x = x[(x / scale).abs() < MOST_CODES]
    ours = with_gradient(fake_quantize, x, scale, zero_point, grid)
    theirs = with_gradient(torch.fake_quantize_per_tensor_affine, x, scale, zero_point, grid.low, grid.high)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("grid", GRIDS)
def test_per_channel_equals_torch(grid, axis):
    x = (torch.randn(4, 3, 5) * 3).transpose(0, 1)
    grid = Grid(grid.bits, grid.signed, grid.symmetric, axis)
    low, high = grid.extremes(x)
    low[0] = high[0] = 0
    scale, zero_point = choose_qparams(low * 0.6, high * 0.6, grid)
    ours = with_gradient(fake_quantize, x, scale, zero_point, grid)
    theirs = with_gradient(
        torch.fake_quantize_per_channel_affine, x, scale, zero_point, axis % 3, grid.low, grid.high
    )
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_equal_torch(dtype):
    x = torch.randn(100).to(dtype)
    scale, zero_point = torch.tensor(0.013), torch.tensor(100, dtype=torch.int32)
    grid = Grid(signed=False, symmetric=False)
    ours = with_gradient(fake_quantize, x, scale, zero_point, grid)
    theirs = with_gradient(torch.fake_quantize_per_tensor_affine, x, scale, zero_point, 0, 255)
    assert ours[0].dtype == dtype
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


def test_per_group_is_per_channel_of_its_rows():
    x = torch.randn(4, 6)
    grid, rows = Grid(bits=4, group_size=2), Grid(bits=4, axis=0)
    scale, zero_point = choose_qparams(*(half / 2 for half in grid.extremes(x)), grid)
    ours = with_gradient(fake_quantize, x, scale, zero_point, grid)
    theirs = with_gradient(fake_quantize, x.reshape(12, 2), scale.flatten(), zero_point.flatten(), rows)
    assert torch.equal(ours[0], theirs[0].reshape(4, 6))
    assert torch.equal(ours[1], theirs[1].reshape(4, 6))


def test_infinities_and_nan():
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e38])
    y, grad = with_gradient(fake_quantize, x, torch.tensor(1e-7), torch.tensor(0), Grid())
    assert torch.equal(y[[0, 1, 3]], torch.tensor([127e-7, -127e-7, 127e-7]))
    assert bool(y[2].isnan())  # not hidden
    assert torch.equal(grad, torch.zeros(4))


def test_idempotent():
    x = torch.randn(50)
    grid = Grid(bits=4, signed=False, symmetric=False)
    qparams = choose_qparams(*grid.extremes(x), grid)
    once = fake_quantize(x, *qparams, grid)
    assert torch.equal(fake_quantize(once, *qparams, grid), once)


def test_under_vmap():
    x = torch.randn(3, 5)
    qparams = torch.tensor(0.1), torch.tensor(0)

    def loss(row):
        return fake_quantize(row, *qparams, Grid(bits=4)).sum()

    grads = torch.vmap(torch.func.grad(loss))(x)
    assert torch.equal(grads, (x.mul(10).round().abs() <= 7).float())

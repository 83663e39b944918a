"""Learned steps, against plain autograd and torch's own."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athena_compress import (
    Grid,
    choose_qparams,
    fake_quantize,
    lsq_fake_quantize,
    lsq_gradient_scale,
    lsq_initial_scale,
)

UNSIGNED = Grid(signed=False, symmetric=False)


def straight(x):
    return x + (x.round() - x).detach()


def reference(x, scale, zero_point, grid):
    """The paper's formula, its gradients left to autograd."""
    whole = zero_point + (zero_point.round().clamp(grid.low, grid.high) - zero_point).detach()
    codes = straight(grid.grouped(x) / grid.aligned(scale, x.ndim)) + grid.aligned(whole, x.ndim)
    # `torch.clamp` passes the gradient at its ends, as the paper's open interval does not matter there
    kept = codes.clamp(grid.low, grid.high)
    return ((kept - grid.aligned(whole, x.ndim)) * grid.aligned(scale, x.ndim)).reshape(x.shape)


def gradients(function, x, scale, zero_point, *args, **options):
    leaves = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in (x, scale, zero_point)]
    y = function(*leaves, *args, **options)
    y.backward(torch.linspace(-1, 3, y.numel(), dtype=y.dtype).reshape(y.shape))
    return [y.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize(
    ("grid", "shape"),
    [
        (Grid(bits=4), ()),
        (Grid(bits=3, symmetric=False), ()),
        (Grid(bits=4, signed=False, symmetric=False), ()),
        (Grid(bits=4, axis=1), (4,)),
        (Grid(bits=2, signed=False, symmetric=False, axis=-1), (6,)),
        (Grid(bits=4, group_size=3, symmetric=False), (5, 4, 2)),
    ],
)
def test_gradients_equal_autograds(grid, shape):
    x = torch.randn(5, 4, 6, dtype=torch.float64) * 3
    scale = torch.rand(shape, dtype=torch.float64) + 0.4
    zero_point = torch.randn(shape, dtype=torch.float64) * 3 + (grid.low + grid.high) / 2
    ours = gradients(lsq_fake_quantize, x, scale, zero_point, grid)
    expected = gradients(reference, x, scale, zero_point, grid)
    for mine, its in zip(ours, expected, strict=True):
        assert mine.shape == its.shape
        assert torch.allclose(mine, its, rtol=1e-10, atol=1e-10)


@given(st.floats(0.125, 4.0, width=32), st.integers(-20, 300), st.sampled_from([-0.4, 0.0, 0.3]))
def test_equals_torchs_learnable(scale, zero_point, part):
    """But for zero points halfway between two codes, which torch rounds up, and values rounded otherwise."""
    torch.manual_seed(0)
    x, scale = torch.randn(200) * 100, torch.tensor([scale])
    zero_point = torch.tensor([zero_point + part])

    def theirs(x, scale, zero_point):
        return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero_point, 0, 255, 0.25)

    def ours(x, scale, zero_point):
        return lsq_fake_quantize(x, scale[0], zero_point[0], UNSIGNED, gradient_scale=0.25)

    for mine, its in zip(
        gradients(ours, x, scale, zero_point), gradients(theirs, x, scale, zero_point), strict=True
    ):
        assert torch.allclose(mine, its, rtol=1e-4, atol=1e-3)


def test_forward_and_the_gradient_of_values_are_those_of_fake_quantize():
    x = torch.randn(7, 5)
    grid = Grid(bits=4, axis=0)
    qparams = choose_qparams(*(end / 2 for end in grid.extremes(x)), grid)
    plain, learned = (x.clone().requires_grad_() for _ in range(2))
    y, z = fake_quantize(plain, *qparams, grid), lsq_fake_quantize(learned, *qparams, grid)
    assert torch.equal(y, z)
    y.square().sum().backward()
    z.square().sum().backward()
    assert torch.equal(plain.grad, learned.grad)


def test_gradient_scale_multiplies_the_parameters_gradients_only():
    x, scale, zero_point = torch.randn(50), torch.tensor(0.1), torch.tensor(3.0)
    plain = gradients(lsq_fake_quantize, x, scale, zero_point, Grid(bits=4))
    scaled = gradients(lsq_fake_quantize, x, scale, zero_point, Grid(bits=4), gradient_scale=0.5)
    assert torch.equal(plain[1], scaled[1])
    assert torch.equal(plain[2] / 2, scaled[2])
    assert torch.equal(plain[3] / 2, scaled[3])


def test_golden_gradients():
    """Figure 2 of the paper's quantity at hand: inside round(v/s) - v/s, outside the clipping code."""
    x = torch.tensor([-100.0, -0.6, 0.1, 0.74, 100.0])
    slopes = []
    for value in x:
        _, _, grad, _ = gradients(
            lambda x, s, z: (
                lsq_fake_quantize(x, s, z, Grid(bits=3)).sum() * 0 + lsq_fake_quantize(x, s, z, Grid(bits=3))
            ),
            value,
            torch.tensor(0.5),
            torch.tensor(0),
        )
        slopes.append(float(grad) / -1.0)  # the weight of a single output is -1
    assert slopes == pytest.approx([-3, 0.2, -0.2, -0.48, 3], abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x = torch.randn(40).to(dtype)
    y, x_grad, scale_grad, _ = gradients(
        lsq_fake_quantize, x, torch.tensor(0.05), torch.tensor(0), Grid(bits=4)
    )
    wide = gradients(lsq_fake_quantize, x.float(), torch.tensor(0.05), torch.tensor(0), Grid(bits=4))
    assert y.dtype == x_grad.dtype == dtype
    assert scale_grad.dtype == torch.float32
    assert torch.equal(y, wide[0].to(dtype))
    assert torch.allclose(scale_grad, wide[2], rtol=0.02)


def test_a_learned_step_approaches_the_best():
    x = torch.randn(4000)
    grid = Grid(bits=3)
    scale = lsq_initial_scale(x, grid).requires_grad_()
    optimizer = torch.optim.Adam([scale], lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        (lsq_fake_quantize(x, scale, torch.tensor(0), grid) - x).square().mean().backward()
        optimizer.step()

    def error(scale):
        return float((fake_quantize(x, scale, torch.tensor(0), grid) - x).square().mean())

    best = min(error(torch.tensor(step / 500)) for step in range(50, 1000, 5))
    assert error(scale.detach()) < best * 1.03


@pytest.mark.parametrize(
    ("grid", "largest"),
    [
        (Grid(), 127),
        (Grid(bits=3), 3),
        (Grid(bits=2, signed=False, symmetric=False), 3),
        (Grid(signed=False), 127),
    ],
)
def test_papers_constants(grid, largest):
    x = torch.randn(4, 6)
    assert lsq_gradient_scale(24, grid) == pytest.approx(1 / sqrt(24 * largest))
    assert torch.allclose(lsq_initial_scale(x, grid), 2 * x.abs().mean() / sqrt(largest))


def test_first_scales_by_channel_group_and_of_zeros():
    x = torch.randn(4, 6)
    rows = lsq_initial_scale(x, Grid(axis=0))
    assert torch.allclose(rows, 2 * x.abs().mean(1) / sqrt(127))
    assert torch.allclose(lsq_initial_scale(x, Grid(group_size=6)).flatten(), rows)
    assert lsq_initial_scale(torch.zeros(3), Grid()) == torch.finfo(torch.float32).eps
    assert lsq_gradient_scale(0, Grid()) == 1 / sqrt(127)

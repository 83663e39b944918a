"""Grids and int8 linear layers, against torchao's, on the same scales and codes."""

from __future__ import annotations

import logging
import warnings
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from athena_compress import Grid, choose_qparams, dequantize_affine, fake_quantize, quantize, quantize_affine

pytestmark = pytest.mark.filterwarnings("ignore:::torchao", "ignore:::torch.utils._pytree")
logging.disable(logging.WARNING)  # torchao names kernels that other machines have
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchao.quantization as torchao
    from torchao.kernel import int_scaled_matmul
    from torchao.quantization import quant_primitives as primitives
logging.disable(logging.NOTSET)

ASYMMETRIC = {"symmetric": False}
UNSIGNED = {"signed": False, "symmetric": False}
GRIDS = [
    *({}, ASYMMETRIC, UNSIGNED, {"bits": 4}, {"bits": 4, **UNSIGNED}, {"bits": 2, **ASYMMETRIC}),
    *({"axis": 0}, {"axis": 0, **UNSIGNED}, {"group_size": 8}, {"group_size": 8, "bits": 4, **UNSIGNED}),
]


def blocks(grid: Grid, x: Tensor) -> tuple[int, ...]:
    """Shape of what shares a scale, torchao's way to say it."""
    if grid.group_size is not None:
        return (1, grid.group_size)
    return tuple(1 if axis == grid.axis else side for axis, side in enumerate(x.shape))


@pytest.mark.parametrize("options", GRIDS, ids=str)
def test_codes_and_values_are_the_same(options):
    grid = Grid(**options)
    x = torch.randn(6, 32) * 3 + 0.5
    block = blocks(grid, x)
    scale, zero_point = choose_qparams(*grid.extremes(x), grid)
    shape = [side // part for side, part in zip(x.shape, block, strict=True)]
    its_scale, its_zero_point = scale.reshape(shape), zero_point.reshape(shape)
    # ends of the grid, beyond them, and halves, beside ordinary numbers
    x = torch.where(torch.rand_like(x) < 0.3, (x / scale.max()).round() * scale.max() / 2, x * 1.2)
    bounds = {"quant_min": grid.low, "quant_max": grid.high}
    theirs = primitives.quantize_affine(x, block, its_scale, its_zero_point, grid.dtype, **bounds)
    ours = quantize_affine(x, scale, zero_point, grid)
    assert torch.equal(ours, theirs)
    values = primitives.dequantize_affine(theirs, block, its_scale, its_zero_point, grid.dtype, **bounds)
    assert torch.equal(dequantize_affine(ours, scale, zero_point, grid), values)
    # ours is torch's own fake quantization, which subtracts and multiplies alike
    assert torch.equal(fake_quantize(x, scale, zero_point, grid), values)


@pytest.mark.parametrize("options", [each for each in GRIDS if not each.get("symmetric", True)], ids=str)
def test_asymmetric_scales_and_zero_points_are_the_same(options):
    grid = Grid(**options)
    for x in (torch.randn(6, 32), torch.rand(6, 32) + 2, -torch.rand(6, 32), torch.zeros(6, 32)):
        scale, zero_point = choose_qparams(*grid.extremes(x), grid)
        its_scale, its_zero_point = primitives.choose_qparams_affine(
            x,
            primitives.MappingType.ASYMMETRIC,
            blocks(grid, x),
            grid.dtype,
            grid.low,
            grid.high,
            eps=torch.finfo(torch.float32).eps,
        )
        assert torch.equal(scale.flatten(), its_scale.flatten())
        assert torch.equal(zero_point.flatten(), its_zero_point.flatten().to(torch.int32))


def test_symmetric_scales_are_the_same_where_codes_are_as_many_on_either_side():
    """torchao divides by half of all steps: 127.5 for codes from -128, 127 for those from -127."""
    x, grid = torch.randn(6, 32), Grid(axis=0)
    scale, _ = choose_qparams(*grid.extremes(x), grid)
    for low, halves in ((-127, 127), (-128, 127.5)):
        kind = primitives.MappingType.SYMMETRIC
        theirs, _ = primitives.choose_qparams_affine(x, kind, (1, 32), torch.int8, low, 127)
        torch.testing.assert_close(theirs.flatten(), scale * 127 / halves, rtol=1e-6, atol=0)


def its_layer(linear: nn.Linear) -> nn.Linear:
    """torchao's int8 layer of this float one."""
    model = nn.Sequential(deepcopy(linear))
    torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig())
    return model[0]


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_a_linear_layer_on_the_same_codes_and_scales(rows, bias):
    layer = quantize(nn.Linear(64, 24, bias=bias))
    x = torch.randn(rows, 64)
    scale, zero_point = choose_qparams(*Grid(axis=0).extremes(x), Grid(axis=0))
    codes = quantize_affine(x, scale, zero_point, Grid(axis=0))
    product = int_scaled_matmul(codes, layer.weight_q.t(), scale[:, None]) * layer.weight_scale
    expected = product if layer.bias is None else product + layer.bias
    # the two scales and the bias: three roundings, of numbers that may be larger than their sum
    size = product.abs() + expected.abs()
    assert ((layer(x) - expected).abs() <= 3 * torch.finfo(torch.float32).eps * size).all()


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_a_linear_layer_is_as_far_as_the_roundings_of_inputs(rows):
    r"""On torchao's weights, the inputs differ alone: theirs by :math:`\max|x|/127.5`, ours by 127.

    Both codes stand for numbers within half a step of :math:`x` (the largest, 127.5 steps of theirs, has
    code 127), so the outputs differ by at most :math:`\sum_i |w_{oi}| (s + s') / 2`.
    """
    linear, x = nn.Linear(64, 24), torch.randn(rows, 64)
    theirs = its_layer(linear)
    ours = quantize(linear)
    ours.weight_q.copy_(theirs.weight.qdata)
    ours.weight_scale.copy_(theirs.weight.scale.flatten())
    weight = ours.weight_q.float() * ours.weight_scale[:, None]
    steps = x.abs().amax(1, keepdim=True) * (1 / 127 + 1 / 127.5)
    bound = weight.abs().sum(1) * steps / 2
    expected = theirs(x)
    difference = (ours(x) - expected).abs()
    assert (difference <= bound * (1 + 1e-5)).all()
    assert difference.norm() < 0.02 * expected.norm()  # roundings are not all of one sign


@torch.no_grad()
def test_weights_are_as_near_to_the_float_ones():
    linear = nn.Linear(64, 24)
    ours, theirs = quantize(linear), its_layer(linear).weight
    torch.testing.assert_close(theirs.scale.flatten() * 127.5 / 127, ours.weight_scale, rtol=1e-5, atol=0)
    errors = [
        (held.float() * scale.view(-1, 1) - linear.weight).abs().amax(1) / scale.flatten()
        for held, scale in ((ours.weight_q, ours.weight_scale), (theirs.qdata, theirs.scale))
    ]
    assert all((error <= 0.5 + 1e-4).all() for error in errors)

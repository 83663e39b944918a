"""Convolutions in int8, plain and transposed, against the formula in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from athena_compress import Int8Conv, Int8ConvTranspose, _int8_layer, calibrate, int8_conv2d, quantize

PLAIN = [
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": (3, 1), "padding": (1, 0), "dilation": (2, 1), "bias": False},
    {"kernel_size": 2, "padding": 2},  # whole patches of padding
    {"kernel_size": 2, "padding": "same"},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 3, "padding": "valid"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 3, "padding": 1, "groups": 4},
    {"kernel_size": 1},
]
TRANSPOSED = [
    {"kernel_size": 3},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 1), "dilation": (2, 1), "bias": False},
    {"kernel_size": 3, "padding": 3},
    {"kernel_size": 3, "stride": 2, "groups": 2},
    {"kernel_size": 1, "stride": 3, "groups": 4},
]


def _of_one_axis(options: dict) -> dict:
    return {name: value[0] if isinstance(value, tuple) else value for name, value in options.items()}


def layers() -> list:
    made = []
    for transposed, cases in ((False, PLAIN), (True, TRANSPOSED)):
        for options in cases:
            two, one = (nn.ConvTranspose2d, nn.ConvTranspose1d) if transposed else (nn.Conv2d, nn.Conv1d)
            for kind, own in ((two, options), (one, _of_one_axis(options))):
                words = ", ".join(f"{name}={value}" for name, value in own.items())
                made.append(pytest.param(kind, own, id=f"{kind.__name__}({words})"))
    return made


def image(kind: type[nn.Module], batch: int = 3) -> torch.Tensor:
    return (
        torch.randn(batch, 4, 9, 8) if kind in (nn.Conv2d, nn.ConvTranspose2d) else torch.randn(batch, 4, 9)
    )


def by_hand(layer: Int8Conv, float_layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The float layer in float64, on the numbers that the integers stand for."""
    if layer.is_static:
        zero = layer.input_zero_point
        codes = ((x * (1 / layer.input_scale)).round() + zero).clamp(0, 255) - zero
        scale = layer.input_scale.double()
    else:
        scale = (x.flatten(1).abs().amax(1) / 127).view(-1, *[1] * (x.ndim - 1))
        codes, scale = (x * (1 / scale)).round(), scale.double()
    exact = type(float_layer)(
        float_layer.in_channels,
        float_layer.out_channels,
        **{
            name: getattr(float_layer, name)
            for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        },
        **({"output_padding": float_layer.output_padding} if float_layer.transposed else {}),
        dtype=torch.float64,
    )
    weight = layer.weight.double()
    if float_layer.transposed:  # mirrored back
        grouped = weight.unflatten(0, (float_layer.groups, -1)).transpose(1, 2).flatten(0, 1)
        weight = grouped.flip(tuple(range(2, weight.ndim)))
    exact.weight.data = weight
    exact.bias.data = torch.zeros_like(exact.bias) if float_layer.bias is None else float_layer.bias.double()
    return exact(codes.double() * scale)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("kind", "options"), layers())
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_kernel_op_and_formula_agree(kind, options, static, monkeypatch):
    convolution, x = kind(4, 4, **options), image(kind)
    made = (
        quantize(calibrate(convolution, [x], observer="min-max"), "int8-static")
        if static
        else quantize(convolution)
    )
    assert type(made) is (Int8ConvTranspose if convolution.transposed else Int8Conv)
    y = made(x)
    assert y.shape == convolution(x).shape
    cut = convolution.transposed and convolution.padding[0] > convolution.kernel_size[0] - 1
    with torch.no_grad():
        if static or not cut:  # a dynamic scale is that of the part of the image that is used
            torch.testing.assert_close(y.double(), by_hand(made, convolution, x), rtol=1e-5, atol=1e-5)
        error = (y - convolution(x)).norm() / convolution(x).norm()
    assert error < 0.05
    monkeypatch.setattr(_int8_layer, "has_exact_int8", lambda: False)
    monkeypatch.setattr("athena_compress._int8_conv.takes_kernel", lambda _: False)
    assert torch.equal(made(x), y)


@pytest.mark.parametrize(("size", "padding"), [(2, 2), (3, 8), (5, 5)])
def test_whole_patches_of_padding_of_one_channel(size, padding):
    # where oneDNN's own padding errs if the zero point is not 0 (torch 2.13)
    convolution = nn.Conv2d(1, 1, size, padding=padding)
    made = quantize(calibrate(convolution, [torch.randn(2, 1, 9, 8)]), "int8-static")
    x, grid = torch.randn(2, 1, 9, 8), (made.input_scale, made.input_zero_point)
    expected = int8_conv2d(x, made.weight_q, made.weight_scale, made.bias, *grid, [1, 1], [padding] * 2)
    torch.testing.assert_close(made(x), expected)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d])
def test_an_image_depends_on_no_other_and_needs_no_batch(kind):
    made, x = quantize(kind(4, 6, 3)), image(kind)
    together = made(x)
    assert torch.equal(made(x[1:2])[0], together[1])
    assert torch.equal(made(x[1]), together[1])
    assert made(x[:0]).shape == (0, *together.shape[1:])


def test_channels_last_comes_and_goes():
    made, x = quantize(nn.Conv2d(4, 8, 3, padding=1)), image(nn.Conv2d)
    y = made(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, made(x))


def test_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"must have shape \(batch, 4, height, width\)"):
        quantize(nn.Conv2d(4, 8, 3))(torch.zeros(1, 3, 9, 9))
    with pytest.raises(ValueError, match=r"must have shape \(batch, 4, length\)"):
        quantize(nn.Conv1d(4, 8, 3))(torch.zeros(4))


def test_the_gradient_reaches_the_input():
    made, x = quantize(nn.Conv2d(4, 8, 3, padding=1)), image(nn.Conv2d).requires_grad_()
    made(x).sum().backward()
    other = image(nn.Conv2d).requires_grad_()
    torch.nn.functional.conv2d(other, made.weight, padding=1).sum().backward()
    torch.testing.assert_close(x.grad, other.grad)

"""Equalization: the same outputs, equal ranges, and only pairs that let factors through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from athena_compress import equalizable_pairs, equalize, equalizing_scale


def uneven(model: nn.Module) -> Any:
    """The model with output channels of very different ranges."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            channels = module.weight.shape[0]
            factors = torch.logspace(-2, 2, channels, dtype=module.weight.dtype)[torch.randperm(channels)]
            with torch.no_grad():
                module.weight.mul_(factors.reshape(-1, *[1] * (module.weight.ndim - 1)))
    return model.eval()


def assert_same(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to a part of the largest element: a sum of uneven products rounds as the largest does."""
    size = float(expected.detach().abs().max())
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * size)


def largest(weight: Tensor, axis: int) -> Tensor:
    return weight.abs().transpose(0, axis).flatten(1).amax(dim=1)


MODELS: dict[str, tuple[Any, tuple[int, ...], list[tuple[str, str]]]] = {
    "linear": (lambda: [nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)], (4, 5), [("0", "2")]),
    "tokens": (lambda: [nn.Linear(5, 6), nn.LeakyReLU(0.2), nn.Linear(6, 3)], (2, 4, 5), [("0", "2")]),
    "convolutions": (
        lambda: [nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3, groups=2)],
        (2, 3, 9, 9),
        [("0", "3")],
    ),
    "one axis": (
        lambda: [
            nn.Conv1d(3, 6, 3, groups=3),
            nn.ReLU(),
            nn.AvgPool1d(2),
            nn.ConvTranspose1d(6, 4, 3, groups=2),
        ],
        (2, 3, 9),
        [("0", "3")],
    ),
    "transposed first": (
        lambda: [nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Dropout2d(), nn.Conv2d(6, 2, 1, bias=False)],
        (2, 4, 3, 3),
        [("0", "2")],
    ),
    "flattened": (
        lambda: [nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 3)],
        (2, 3, 3, 3),
        [("0", "3")],
    ),
    "pooled to one": (
        lambda: [nn.Conv2d(3, 4, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)],
        (2, 3, 3, 3),
        [("0", "4")],
    ),
    "depthwise": (
        lambda: [nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 2, 1)],
        (2, 3, 5, 5),
        [("0", "2"), ("2", "4")],
    ),
}


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_stay(name: str, watched: bool, dtype: torch.dtype) -> None:
    build, shape, pairs = MODELS[name]
    model, x = uneven(nn.Sequential(*build()).to(dtype)), torch.randn(shape, dtype=dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    example = x if watched else None
    assert equalizable_pairs(model, example) == pairs
    equal = equalize(model, example_inputs=example)
    assert_same(equal(x), model(x), 1e-5 if dtype == torch.float32 else 1e-12)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert any(not torch.equal(value, before[key]) for key, value in equal.state_dict().items())


def test_ranges_are_equal_afterwards() -> None:
    equal = equalize(uneven(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))))
    torch.testing.assert_close(largest(equal[0].weight, 0), largest(equal[2].weight, 1))


def test_ranges_of_three_layers_agree_once_sweeps_end() -> None:
    build, _, _ = MODELS["depthwise"]
    first, _, middle, _, last = equalize(uneven(nn.Sequential(*build())), sweeps=1000)
    depthwise = largest(middle.weight, 0)
    torch.testing.assert_close(largest(first.weight, 0), depthwise, rtol=1e-3, atol=0)
    torch.testing.assert_close(largest(last.weight, 1), depthwise, rtol=1e-3, atol=0)


def test_flattened_channels_share_a_factor() -> None:
    build, _, _ = MODELS["flattened"]
    model = uneven(nn.Sequential(*build()))
    equal = equalize(model)
    factors = (equal[3].weight / model[3].weight).reshape(3, 4, 4)
    torch.testing.assert_close(factors, factors[:1, :, :1].expand(3, 4, 4))
    ranges = equal[3].weight.reshape(3, 4, 4).abs().amax(dim=(0, 2))
    torch.testing.assert_close(largest(equal[0].weight, 0), ranges)


RANGES = st.just(0.0) | st.floats(1e-29, 1e30)


@given(st.lists(st.tuples(RANGES, RANGES), min_size=1, max_size=5))
def test_scale_against_the_paper(ranges: list[tuple[float, float]]) -> None:
    first, second = (torch.tensor(side, dtype=torch.double) for side in zip(*ranges, strict=True))
    for value, r1, r2 in zip(
        equalizing_scale(first, second).tolist(), *zip(*ranges, strict=True), strict=True
    ):
        expected = (r1 / r2) ** 0.5 if r1 > 0 and r2 > 0 else 1.0
        assert value == pytest.approx(expected, rel=1e-9)


def test_scales_of_extreme_ranges_are_finite() -> None:
    extremes = torch.tensor([1e-38, 3e38, 1e-45])
    for first in extremes:
        for second in extremes:
            scale = equalizing_scale(first[None], second[None])
            assert scale.isfinite().all()
            assert (scale > 0).all()


def test_rounding_to_int8_hurts_less() -> None:
    model, x = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)).eval(), torch.randn(64, 32)
    factors = torch.logspace(-2, 2, 32)
    with torch.no_grad():
        model[0].weight.mul_(factors[:, None])
        model[0].bias.mul_(factors)
        model[2].weight.div_(factors)

    def error(candidate: Any) -> float:
        expected = candidate(x)
        with torch.no_grad():
            for layer in (candidate[0], candidate[2]):
                scale = float(layer.weight.detach().abs().max()) / 127
                layer.weight.copy_(torch.fake_quantize_per_tensor_affine(layer.weight, scale, 0, -127, 127))
        return float(((candidate(x) - expected).norm() / expected.norm()).detach())

    equal = equalize(model)
    assert error(equal) < 0.1 * error(model)


class Functional(nn.Module):
    """Convolutions joined by functions, in the way ``how`` says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first = nn.Conv2d(3, 4, 1)
        self.second = nn.Conv2d(4, 4, 1)
        self.linear = nn.Linear(4 if "pooled" in how or "mean" in how else 36, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        match self.how:
            case "relu":
                return self.second(torch.relu(y))
            case "relu in place":
                return self.second(F.relu(y, inplace=True))
            case "pool":
                return self.second(F.max_pool2d(F.leaky_relu(y), 2))
            case "pooled, flattened":
                return self.linear(F.adaptive_avg_pool2d(y, 1).flatten(1))
            case "viewed":
                return self.linear(y.relu().view(len(y), -1))
            case "product":
                return self.second(y * x.sigmoid().mean(dim=1, keepdim=True))
            case "gelu":
                return self.second(F.gelu(y))
            case "sum":
                return self.second(F.relu(y) + 1)
            case "used twice":
                return self.second(y) + y
            case "square":
                return self.second(y * y)
            case "channels moved":
                return self.second(y.roll(1, dims=1))
            case "mean over channels":
                return self.second(y.mean(dim=1, keepdim=True).expand(-1, 4, -1, -1))
            case "batch flattened":
                return self.linear(y.flatten(2).flatten(0, 1).view(-1, 36))
            case _:
                raise AssertionError(self.how)


THROUGH = {
    "relu": "second",
    "relu in place": "second",
    "pool": "second",
    "pooled, flattened": "linear",
    "viewed": "linear",
    "product": "second",
}


@pytest.mark.parametrize("how", THROUGH)
def test_functions_that_let_factors_through(how: str) -> None:
    model, x = uneven(Functional(how)), torch.randn(2, 3, 3, 3)
    assert equalizable_pairs(model, x) == [("first", THROUGH[how])]
    assert_same(equalize(model, example_inputs=x)(x), model(x))


OPAQUE = ("gelu", "sum", "used twice", "square", "channels moved", "mean over channels", "batch flattened")


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("how", OPAQUE)
def test_what_lets_no_factors_through(how: str, watched: bool) -> None:
    assert equalizable_pairs(Functional(how), torch.randn(4, 3, 3, 3) if watched else None) == []


@pytest.mark.parametrize("between", [nn.GELU(), nn.SiLU(), nn.ReLU6(), nn.BatchNorm2d(4), nn.Sigmoid()])
def test_modules_that_let_no_factors_through(between: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), between, nn.Conv2d(4, 2, 1))
    assert equalizable_pairs(model) == equalizable_pairs(model, torch.randn(2, 3, 4, 4)) == []
    with pytest.raises(ValueError, match="`model` must have two layers in a row"):
        equalize(model)


def test_axes_that_are_no_channels_are_not_paired() -> None:
    along = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Linear(4, 2))  # the last axis is time
    assert equalizable_pairs(along, torch.randn(2, 3, 4)) == equalizable_pairs(along) == []
    pooled = nn.Sequential(nn.Linear(3, 4), nn.AvgPool1d(2), nn.Linear(2, 2))  # over the features
    assert equalizable_pairs(pooled, torch.randn(2, 3, 3)) == equalizable_pairs(pooled) == []
    single = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2))  # without a batch
    assert equalizable_pairs(single, torch.randn(3, 2, 2)) == []


def test_shared_hooked_and_parametrized_layers_are_not_paired() -> None:
    shared = nn.Linear(4, 4)
    hooked = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    hooked[0].register_forward_hook(lambda *_: None)
    parametrized = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    for model in (nn.Sequential(shared, shared), hooked, parametrized):
        for example in (None, torch.randn(2, 4)):
            assert equalizable_pairs(model, example) == []


def test_tied_weight_is_untied() -> None:
    model = uneven(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    model[2].weight = model[0].weight
    x = torch.randn(5, 4)
    assert_same(equalize(model)(x), model(x))


def test_dead_channels_stay() -> None:
    model = uneven(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    with torch.no_grad():
        model[0].weight[0], model[2].weight[:, 1] = 0, 0
    equal, x = equalize(model), torch.randn(5, 4)
    assert all(parameter.isfinite().all() for parameter in equal.parameters())
    torch.testing.assert_close(equal(x), model(x), rtol=1e-5, atol=1e-5)


def test_no_channels() -> None:
    with pytest.warns(UserWarning, match="zero-element tensors"):
        model = nn.Sequential(nn.Linear(3, 0), nn.ReLU(), nn.Linear(0, 2))
    assert equalize(model, [("0", "2")])(torch.randn(1, 3)).shape == (1, 2)


def test_strided_weights() -> None:
    model = uneven(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    model[2].weight = nn.Parameter(model[2].weight.detach().transpose(2, 3))
    x = torch.randn(1, 3, 6, 6)
    expected = model(x)
    for candidate in (model, model.to(memory_format=torch.channels_last)):
        assert_same(equalize(candidate)(x), expected)


def test_errors() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="`pairs` must name layers of the model; got 'head'"):
        equalize(model, [("0", "head")])
    with pytest.raises(ValueError, match="not parametrized; got '1', a ReLU"):
        equalize(model, [("0", "1")])
    with pytest.raises(ValueError, match="`pairs`: '0' must take the 2 channels of '1'; got 5"):
        equalize(nn.Sequential(nn.Linear(5, 3), nn.Linear(5, 2)), [("1", "0")])
    with pytest.raises(ValueError, match="`sweeps` must be at least 1; got 0"):
        equalize(model, sweeps=0)
    model[2].weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="2: the weight must be finite"):
        equalize(model)

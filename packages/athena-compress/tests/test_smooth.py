"""SmoothQuant: the same outputs, milder activations, and groups found by what is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from athena_compress import quantize, smooth, smoothing_groups, smoothing_scale, split_attention


class OwnNorm(nn.Module):
    """Root mean square norm under names that no one knows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * x.square().mean(dim=-1, keepdim=True).add(1e-6).rsqrt() * self.weight


class OffsetNorm(OwnNorm):
    """A norm that multiplies by one plus its weight, as Gemma's does."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.square().mean(dim=-1, keepdim=True).add(1e-6).rsqrt() * (1 + self.weight)


class Gated(nn.Module):
    """A norm first block of a gated feed-forward layer, joined by functions."""

    def __init__(self, norm: nn.Module, how: str = "") -> None:
        super().__init__()
        self.how = how
        self.before = norm
        self.gate, self.up, self.down = nn.Linear(8, 16), nn.Linear(8, 16, bias=False), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        if self.how == "viewed":
            y = y.view(-1, 8)
            return x + self.down(self.up(y) * self.gate(y).sigmoid()).view(x.shape)
        z = self.down(self.up(y) * self.gate(y).sigmoid())
        if self.how == "norm used elsewhere":
            return y + z
        if self.how == "transposed":
            return x + self.up(y.transpose(1, 2)).mean()
        if self.how == "weight read":
            return x + z + self.up.weight.sum()
        if self.how == "called twice":
            return x + z + self.before(z)
        return x + z


NORMS = (nn.LayerNorm, nn.RMSNorm, OwnNorm, lambda width: nn.LayerNorm(width, bias=False))


def planted(model: Any) -> Any:
    """The model, its norms making outliers in two channels, and eval."""
    with torch.no_grad():
        for module in model.modules():
            if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None:
                module.weight[0] *= 60
                module.weight[-1] *= 100
    return model.eval()


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu")
    return planted(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("how", ["", "viewed"])
def test_outputs_stay_and_outliers_shrink(norm: Any, dtype: torch.dtype, how: str) -> None:
    model, x = planted(Gated(norm(8), how)).to(dtype), torch.randn(4, 5, 8, dtype=dtype)
    assert smoothing_groups(model, x) == {"before": ["up", "gate"]}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    smoothed: Any = smooth(model, [x, x + 1])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    with torch.no_grad():
        expected = model(x)
        size = float(expected.abs().max())
        torch.testing.assert_close(smoothed(x), expected, rtol=tolerance, atol=tolerance * size)
        largest = [float(candidate.before(x).abs().max()) for candidate in (model, smoothed)]
    assert largest[1] < largest[0] / 4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(smoothed.down.weight, model.down.weight, rtol=0, atol=0)


def test_factors_are_those_of_all_batches_and_layers() -> None:
    model, batches = Gated(nn.LayerNorm(8)).eval(), [torch.randn(4, 5, 8), 3 * torch.randn(2, 8)]
    smoothed: Any = smooth(model, batches, alpha=0.7)
    with torch.no_grad():
        activations = torch.cat([model.before(x).reshape(-1, 8) for x in batches]).abs().amax(dim=0)
    weights = torch.cat([model.gate.weight, model.up.weight]).abs().amax(dim=0)
    scale = activations**0.7 / weights**0.3
    torch.testing.assert_close(smoothed.before.weight, model.before.weight / scale)
    torch.testing.assert_close(smoothed.before.bias, model.before.bias / scale)
    torch.testing.assert_close(smoothed.gate.weight, model.gate.weight * scale)


def test_half_shares_the_difficulty() -> None:
    """At one half, activations and weights of a channel have equal ranges: section 4 of the paper."""
    model, x = planted(Gated(nn.LayerNorm(8))), torch.randn(4, 5, 8)
    smoothed: Any = smooth(model, [x])
    with torch.no_grad():
        activations = smoothed.before(x).abs().flatten(0, 1).amax(dim=0)
    weights = torch.cat([smoothed.gate.weight, smoothed.up.weight]).abs().amax(dim=0)
    torch.testing.assert_close(activations, weights.detach())


@given(
    st.lists(st.tuples(st.just(0.0) | st.floats(1e-6, 1e6), st.just(0.0) | st.floats(1e-6, 1e6)), min_size=1),
    st.floats(0, 1),
)
def test_scale_against_the_paper(ranges: list[tuple[float, float]], alpha: float) -> None:
    activations, weights = (torch.tensor(side, dtype=torch.double) for side in zip(*ranges, strict=True))
    scale = smoothing_scale(activations, weights, alpha)
    for value, (activation, weight) in zip(scale.tolist(), ranges, strict=True):
        dead = activation == 0 or weight == 0
        expected = 1.0 if dead else activation**alpha / weight ** (1 - alpha)
        assert value == pytest.approx(expected, rel=1e-9)


def error(model: Any, reference: Any, x: Tensor) -> float:
    with torch.no_grad():
        expected = reference(x)
        return float((model(x) - expected).norm() / expected.norm())


def test_int8_error_falls() -> None:
    model, x = planted(Gated(nn.LayerNorm(8))), torch.randn(64, 8)
    with torch.no_grad():  # outliers are a few inputs among many that matter: their weights are small
        for layer in (model.up, model.gate):
            layer.weight[:, 0] /= 60
            layer.weight[:, -1] /= 100
    plain, smoothed = quantize(model, "int8-dynamic"), quantize(smooth(model, [x]), "int8-dynamic")
    assert error(smoothed, model, x) < 0.2 * error(plain, model, x)


def test_torchs_encoder_is_split_and_smoothed() -> None:
    model, x = encoder(), torch.randn(3, 5, 8)
    groups = smoothing_groups(split_attention(model), x)
    attention = [f"layers.0.self_attn.{part}" for part in ("query", "key", "value")]
    assert groups["layers.0.norm1"] == attention
    assert groups["layers.1.norm2"] == ["layers.1.linear1"]
    assert len(groups) == 4
    smoothed = smooth(model, [x])
    assert error(smoothed, model, x) < 1e-5
    assert smoothing_groups(model, x).keys() == {"layers.0.norm2", "layers.1.norm2"}  # of a packed projection


def test_pairs_and_labels() -> None:
    model, x = planted(Gated(nn.LayerNorm(8))), torch.randn(4, 8)
    smoothed = smooth(model, iter([(x, torch.zeros(4))]), forward=lambda model, batch: model(batch[0]))
    assert error(smoothed, model, x) < 1e-5
    assert error(smooth(model, [{"x": x}]), model, x) < 1e-5


def test_groups_by_name() -> None:
    model, x = planted(Gated(OwnNorm(8))), torch.randn(4, 8)
    smoothed: Any = smooth(model, [x], groups={"before": ["up", "gate"]})
    assert error(smoothed, model, x) < 1e-5
    with pytest.raises(ValueError, match="`groups` must name layers of the model; got 'after'"):
        smooth(model, [x], groups={"after": ["up"]})
    with pytest.raises(ValueError, match="of that width; got 'before', a OwnNorm, and 'down', a Linear"):
        smooth(model, [x], groups={"before": ["down"]})
    with pytest.raises(ValueError, match="got 'up', a Linear, and 'before', a OwnNorm"):
        smooth(model, [x], groups={"up": ["before"]})


@pytest.mark.parametrize("how", ["norm used elsewhere", "transposed", "weight read", "called twice"])
def test_other_uses_are_no_groups(how: str) -> None:
    model, x = Gated(nn.LayerNorm(8), how), torch.randn(2, 8, 8)
    assert smoothing_groups(model, x) == {}
    with pytest.raises(ValueError, match="`model` must have a norm whose output linear layers alone take"):
        smooth(model, [x])


@pytest.mark.parametrize(
    "norm",
    [
        OffsetNorm(8),
        nn.LayerNorm(8, elementwise_affine=False),
        nn.GroupNorm(2, 8),
        nn.BatchNorm1d(8),
        nn.PReLU(8),
        nn.Linear(8, 8),
        nn.LayerNorm((8, 8)),
    ],
)
def test_other_layers_are_no_norms(norm: nn.Module) -> None:
    assert smoothing_groups(Gated(norm), torch.randn(2, 8, 8)) == {}


def test_tied_weight_is_left() -> None:
    model = nn.Sequential(nn.Embedding(10, 8), nn.LayerNorm(8), nn.Linear(8, 10))
    x = torch.randint(0, 10, (2, 3))
    assert smoothing_groups(model, x) == {"1": ["2"]}
    model[2].weight = model[0].weight
    assert smoothing_groups(model, x) == {}


def test_silent_channels_stay() -> None:
    model, x = Gated(nn.LayerNorm(8)).eval(), torch.randn(4, 8)
    with torch.no_grad():
        model.before.weight[0], model.before.bias[0] = 0, 0
        model.up.weight[:, 1], model.gate.weight[:, 1] = 0, 0
    smoothed = smooth(model, [x])
    assert all(parameter.isfinite().all() for parameter in smoothed.parameters())
    assert error(smoothed, model, x) < 1e-5


def test_model_in_training_mode_gives_a_copy_in_evaluation_mode() -> None:
    model = Gated(nn.LayerNorm(8)).train()
    model.up.weight.requires_grad_(False)
    smoothed: Any = smooth(model, [torch.randn(4, 8)])
    assert not any(module.training for module in smoothed.modules())
    assert all(module.training for module in model.modules())
    assert not smoothed.up.weight.requires_grad
    assert smoothed.gate.weight.requires_grad
    assert not smoothed.before._forward_hooks


def test_errors() -> None:
    model, x = Gated(nn.LayerNorm(8)), torch.randn(4, 8)
    with pytest.raises(ValueError, match="`batches` must hold data; got no calibration data"):
        smooth(model, [])
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"`alpha` must lie in \[0, 1\]; got"):
            smooth(model, [x], alpha=alpha)
    with pytest.raises(ValueError, match="before: its output must be finite; got NaN"):
        smooth(model, [x, x / 0])
    with pytest.raises(
        ValueError, match="`batches` must reach each norm with at least one row; got none for"
    ):
        smooth(model, [x[:0]])

"""Batch normalization folded into layers: equal outputs, and nothing folded that must not be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.fusion import fuse_conv_bn_eval

from athena_compress import conv_norm_pairs, fold_batch_norm, folded_weight_bias

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def trained_norm(norm: Any) -> Any:
    """The norm, as if it had seen data."""
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        if norm.affine:
            norm.weight.normal_()
            norm.bias.normal_()
    return norm


def layer_and_input(kind: type[nn.Module], groups: int, bias: bool) -> tuple[nn.Module, Tensor]:
    if kind is nn.Linear:
        return nn.Linear(6, 9, bias=bias), torch.randn(4, 6)
    size = (7,) if kind in (nn.Conv1d, nn.ConvTranspose1d) else (7, 5)
    return kind(6, 9, 3, groups=groups, bias=bias, stride=2, padding=1), torch.randn(2, 6, *size)


def norm_of(kind: type[nn.Module], channels: int, **options: Any) -> nn.Module:
    two_d = kind in (nn.Conv2d, nn.ConvTranspose2d)
    return (nn.BatchNorm2d if two_d else nn.BatchNorm1d)(channels, **options)


KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


@given(
    st.sampled_from(KINDS),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_outputs_are_equal(kind, groups, bias, affine, watched, dtype) -> None:
    layer, x = layer_and_input(kind, groups, bias)
    model = nn.Sequential(layer, trained_norm(norm_of(kind, 9, affine=affine)), nn.ReLU()).to(dtype).eval()
    x = x.to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_batch_norm(model, x if watched else None)
    assert isinstance(folded[1], nn.Identity)
    torch.testing.assert_close(folded(x), model(x), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_grouped_transposed_convolution_matches_a_loop_over_channels() -> None:  # pytorch#180995
    layer, norm = nn.ConvTranspose2d(4, 6, 3, groups=2), trained_norm(nn.BatchNorm2d(6)).eval()
    weight, bias = folded_weight_bias(layer, norm)
    for channel in range(6):
        scale = norm.weight[channel] / (norm.running_var[channel] + norm.eps).sqrt()
        group, inside = divmod(channel, 3)
        rows = slice(2 * group, 2 * group + 2)
        torch.testing.assert_close(weight[rows, inside], layer.weight[rows, inside] * scale)
        expected = (layer.bias[channel] - norm.running_mean[channel]) * scale + norm.bias[channel]
        torch.testing.assert_close(bias[channel], expected)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_equals_torchs_own_fusion(kind: type[nn.Module]) -> None:
    layer, norm = kind(4, 6, 3), trained_norm(nn.BatchNorm2d(6)).eval()
    expected = fuse_conv_bn_eval(layer.eval(), norm, transpose=kind is nn.ConvTranspose2d)
    weight, bias = folded_weight_bias(layer, norm)
    torch.testing.assert_close(weight, expected.weight.detach())
    torch.testing.assert_close(bias, expected.bias.detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    layer, norm = nn.Linear(3, 4), trained_norm(nn.BatchNorm1d(4))
    expected = folded_weight_bias(layer.to(dtype).float(), norm.to(dtype).float())
    for got, exact in zip(folded_weight_bias(layer.to(dtype), norm.to(dtype)), expected, strict=True):
        assert got.dtype == dtype
        assert torch.equal(got, exact.to(dtype))


class Residual(nn.Module):
    """A block with a projected shortcut, called with its own control flow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm1 = trained_norm(nn.BatchNorm2d(4))
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.norm2 = trained_norm(nn.BatchNorm2d(4))
        self.shortcut = nn.Conv2d(3, 4, 1)
        self.shortcut_norm = trained_norm(nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut_norm(self.shortcut(x)))


class Branching(Residual):
    """What torch.fx cannot trace."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > -1e9 else x


@pytest.mark.parametrize("watched", [True, False])
def test_residual_block_folds_whole(watched: bool) -> None:
    model, x = Residual().eval(), torch.randn(2, 3, 5, 5)
    example = x if watched else None
    pairs = [("conv1", "norm1"), ("conv2", "norm2"), ("shortcut", "shortcut_norm")]
    assert sorted(conv_norm_pairs(model, example)) == pairs
    torch.testing.assert_close(fold_batch_norm(model, example)(x), model(x), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_traced_is_watched() -> None:
    model, x = Branching().eval(), torch.randn(2, 3, 5, 5)
    assert conv_norm_pairs(model) == []
    folded = fold_batch_norm(model, (x,))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    assert len(conv_norm_pairs(model, {"x": x})) == 3


def test_without_inputs_what_cannot_be_traced_folds_in_sequentials() -> None:
    layers = [nn.Conv1d(2, 2, 1), trained_norm(nn.BatchNorm1d(2))]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Linear(3, 3), nn.BatchNorm1d(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x) if x.sum() < 1e9 else x

    model, x = Model().eval(), torch.randn(2, 2, 3)
    assert conv_norm_pairs(model) == [("layers.0", "layers.1")]  # the last norm has other channels
    torch.testing.assert_close(fold_batch_norm(model)(x), model(x), rtol=1e-5, atol=1e-5)
    model.layers[0].register_forward_hook(lambda *_: None)
    assert conv_norm_pairs(model) == []
    model.again = model.layers[2:]
    model.norm = model.layers[1]
    assert conv_norm_pairs(model) == []


class Wild(nn.Module):
    """A convolution and a norm, used as ``how`` says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = trained_norm(nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Any:
        if self.how == "convolution called twice":
            return self.norm(self.conv(self.conv(x)))
        if self.how == "norm called twice":
            return self.norm(self.norm(self.conv(x)))
        y = self.conv(x)
        if self.how == "output added":
            return self.norm(y) + y
        if self.how == "output returned":
            return self.norm(y), y
        if self.how == "output viewed and changed":
            y[:, :1].add_(1)
        if self.how == "changed in place":
            y.relu_()
        if self.how == "weight read":
            return self.norm(y) + self.conv.weight.sum()
        return self.norm(y)


WILD = (
    "convolution called twice",
    "norm called twice",
    "output added",
    "output returned",
    "output viewed and changed",
    "changed in place",
    "weight read",
)


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("how", WILD)
def test_other_uses_are_not_folded(how: str, watched: bool) -> None:
    model, x = Wild(how).eval(), torch.randn(2, 3, 4, 4)
    assert conv_norm_pairs(model, x if watched else None) == []
    torch.testing.assert_close(fold_batch_norm(model, x)(x), model(x))
    assert conv_norm_pairs(Wild("plain"), x) == [("conv", "norm")]


def test_hooks_places_and_parametrizations_are_not_folded() -> None:
    x = torch.randn(2, 3, 4, 4)
    hooked = Wild("plain")
    hooked.norm.register_forward_pre_hook(lambda _, arguments: (arguments[0] + 1,))
    shared = Wild("plain")
    shared.other = shared.conv
    parametrized = Wild("plain")
    parametrizations.weight_norm(parametrized.conv)
    for model in (hooked, shared, parametrized):
        for example in (x, None):
            assert conv_norm_pairs(model, example) == []


def test_overridden_forward_is_not_folded() -> None:
    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    model = nn.Sequential(Scaled(3, 3, 1), nn.BatchNorm2d(3))
    assert conv_norm_pairs(model, torch.randn(2, 3, 4, 4)) == []


def test_norms_of_the_batch_are_not_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))
    x = torch.randn(2, 3, 4, 4)
    assert conv_norm_pairs(model, x) == conv_norm_pairs(model) == []
    with pytest.raises(ValueError, match="`norm` must keep running statistics; got track"):
        folded_weight_bias(*model)


def test_sequences_normalized_along_time_are_not_folded() -> None:
    model = nn.Sequential(nn.Linear(4, 4), trained_norm(nn.BatchNorm1d(4))).eval()
    x = torch.randn(2, 4, 4)  # the norm's channels are the second axis here, the layer's the last
    assert conv_norm_pairs(model, x) == []
    assert conv_norm_pairs(model, x[0]) == [("0", "1")]


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="`norm` must have the layer's 4 output channels; got 3"):
        folded_weight_bias(nn.Linear(2, 4), nn.BatchNorm1d(3))


def test_model_in_training_mode_folds_to_a_copy_in_evaluation_mode() -> None:  # pytorch#115715
    model = nn.Sequential(nn.Conv2d(3, 4, 1), trained_norm(nn.BatchNorm2d(4)), nn.Dropout())
    model[2].eval()
    model.train()
    x = torch.randn(4, 3, 2, 2)
    state = copy.deepcopy(model.state_dict())
    folded = fold_batch_norm(model, x)
    assert not any(module.training for module in folded.modules())
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-5, atol=1e-5)


def test_frozen_stays_frozen_and_trained_gets_gradients() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    model[0].requires_grad_(False)
    folded = fold_batch_norm(model)
    assert not folded[0].weight.requires_grad
    assert not folded[0].bias.requires_grad
    folded(torch.randn(3, 2)).sum().backward()
    assert folded[2].bias.grad is not None


def test_tied_weight_is_untied() -> None:
    model = nn.Sequential(nn.Linear(3, 3), trained_norm(nn.BatchNorm1d(3)), nn.Linear(3, 3)).eval()
    model[2].weight = model[0].weight
    x = torch.randn(5, 3)
    folded = fold_batch_norm(model, x)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(folded[2].weight, model[2].weight)


def test_empty_batch_and_zero_channels() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3)).eval()
    assert fold_batch_norm(model, torch.zeros(0, 2, 4))(torch.zeros(0, 2, 4)).shape == (0, 3, 4)
    model[1].weight.data.zero_()
    folded = fold_batch_norm(model)
    assert folded[0].weight.count_nonzero() == 0


def test_encoder_with_padding_is_watched() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)
            self.convolution, self.norm = nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            y = self.encoder(x, src_key_padding_mask=padding)
            return self.norm(self.convolution(y.transpose(1, 2)))

    model, padding = Model().eval(), torch.tensor([[False, False, True], [False] * 3])
    assert conv_norm_pairs(model, (torch.randn(2, 3, 4), padding)) == [("convolution", "norm")]
    assert model.encoder.use_nested_tensor


def test_custom_autograd_functions_are_seen() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

    class Model(Wild):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y) + Double.apply(y)

    assert conv_norm_pairs(Model(""), torch.randn(2, 3, 4, 4)) == []


def test_errors_of_the_model_reach_the_user() -> None:
    with pytest.raises(RuntimeError, match="expected input"):
        conv_norm_pairs(nn.Sequential(nn.Conv2d(3, 3, 1)), torch.randn(2, 2, 4, 4))

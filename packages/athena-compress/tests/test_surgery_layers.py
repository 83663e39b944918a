"""Removal from layers of many kinds, and sizes that modules keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from surgery import assert_equal_outputs, outputs, zero
from torch import Tensor, nn
from torch.nn.utils import prune

from athena_compress import dependencies


def test_parametrised_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    nn.utils.parametrizations.weight_norm(model[0])
    prune.l1_unstructured(model[2], "weight", 0.5)
    x = torch.randn(2, 3, 8, 8)
    graph = dependencies(model, x)
    zero(model, graph.group(graph.groups[0].name), torch.tensor([2]))
    model[0].parametrizations.weight.original1.data[2] = 1  # a direction of length 0 is none
    expected = model(x)
    graph.remove({graph.groups[0].name: torch.tensor([2])})
    assert (model[0].out_channels, model[2].in_channels) == (5, 5)
    assert model[2].weight_mask.shape == (4, 5, 3, 3)
    torch.testing.assert_close(model(x), expected)


def test_a_masked_depthwise_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 2, 1))
    prune.l1_unstructured(model[1], "weight", 0.5)
    x = torch.randn(2, 3, 4, 4)
    dependencies(model, x).remove({"0": torch.tensor([1, 2])})
    assert (model[1].in_channels, model[1].out_channels, model[1].groups) == (4, 8, 4)
    assert model(x).shape == (2, 2, 2, 2)


def test_channels_last_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(
        memory_format=torch.channels_last
    )
    dependencies(model, torch.randn(1, 3, 8, 8)).remove({"0": torch.tensor([0, 3])})
    assert model[2].weight.is_contiguous(memory_format=torch.channels_last)


class Kept(nn.Module):
    """Sizes kept under names of the module's own, and used in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_dim, self.n_heads = 12, 3
        self.qkv, self.out = nn.Linear(5, 36), nn.Linear(12, 8)
        self.hidden_dim = 6
        self.up, self.down = nn.Linear(8, 12), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            one.unflatten(-1, (self.n_heads, 4)).transpose(1, 2)
            for one in self.qkv(x).split(self.embed_dim, 2)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        gate, value = self.up(self.out(y.reshape(*x.shape[:2], self.embed_dim))).split(self.hidden_dim, -1)
        return self.down(gate.sigmoid() * value)


def test_sizes_in_attributes_follow_where_the_model_needs_them() -> None:
    model, x = Kept(), torch.randn(2, 3, 5)
    graph = dependencies(model, x)
    for name, unit in (("qkv", 1), ("up", 3)):
        zero(model, graph.group(name), torch.tensor([unit]))
    before = outputs(model, x)
    graph.remove({"up": torch.tensor([3])})
    assert (model.hidden_dim, model.embed_dim, model.n_heads) == (5, 12, 3)
    graph.remove({"qkv": torch.tensor([1])})
    assert (model.hidden_dim, model.embed_dim, model.n_heads) == (5, 8, 2)
    assert_equal_outputs(outputs(model, x), before)


#: functions of images of 8 channels that leave whole units: layer -> channels it returns
IMAGE_LAYERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "average": (lambda: nn.AvgPool2d(2), 8),
    "adaptive average": (lambda: nn.AdaptiveAvgPool2d(3), 8),
    "adaptive maximum": (lambda: nn.AdaptiveMaxPool2d(3), 8),
    "nearest": (lambda: nn.Upsample(scale_factor=2), 8),
    "bilinear": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), 8),
    "reflected": (lambda: nn.ReflectionPad2d(1), 8),
    "padded": (lambda: nn.ZeroPad2d(1), 8),
    "instance norm": (lambda: nn.InstanceNorm2d(8), 8),
    "affine instance norm": (lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True), 8),
    "batch norm without weights": (lambda: nn.BatchNorm2d(8, affine=False), 8),
    "group norm": (lambda: nn.GroupNorm(4, 8), 8),
    "dropout": (lambda: nn.Dropout2d(), 8),
    "shuffled": (lambda: nn.ChannelShuffle(2), 8),
    "unshuffled": (lambda: nn.PixelUnshuffle(2), 32),
    "shuffled pixels": (lambda: nn.PixelShuffle(2), 2),
    "glu": (lambda: nn.GLU(1), 4),
    "prelu": (lambda: nn.PReLU(8), 8),
    "places flattened": (lambda: nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (6, 6))), 8),
}


@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_layers_of_images(name: str) -> None:
    build, channels = IMAGE_LAYERS[name]
    model = nn.Sequential(nn.Conv2d(3, 8, 1), build(), nn.Conv2d(channels, 3, 1)).eval()
    x = torch.randn(2, 3, 6, 6)
    graph = dependencies(model, x)
    group = graph.group("0")
    assert group.removable
    units = torch.arange(group.size // 2)
    zero(model, group, units)
    before = outputs(model, x)
    graph.remove({"0": units})
    assert_equal_outputs(outputs(model, x), before)


def test_convolutions_of_one_and_three_dimensions() -> None:
    for dims in (1, 3):
        conv, transposed, norm, pool = (
            getattr(nn, f"{kind}{dims}d") for kind in ("Conv", "ConvTranspose", "BatchNorm", "MaxPool")
        )
        model = nn.Sequential(
            conv(2, 6, 3), norm(6), pool(2), transposed(6, 4, 2), nn.ReLU(), conv(4, 2, 1)
        ).eval()
        x = torch.randn(2, 2, *[8] * dims)
        graph = dependencies(model, x)
        chosen = {"0": torch.tensor([0, 5]), "3": torch.tensor([2])}
        for name, units in chosen.items():
            zero(model, graph.group(name), units)
        before = outputs(model, x)
        graph.remove(chosen)
        assert (model[3].in_channels, model[3].out_channels) == (4, 3)
        assert_equal_outputs(outputs(model, x), before)

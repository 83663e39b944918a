"""Whole layers: which are residual, how much each changes, and their removal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from models import CASES, ResNet
from torch import Tensor, nn
from transformer_models import GPT, Llama

from athena_compress import block_influence, layer_candidates, remove_layers


class PostNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.norm(x + scale * self.mix(x))


class Plain(nn.Module):
    """Keeps the shape, and is not residual."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x).relu()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet", ["blocks.0", "blocks.2"]),
        ("vit", ["blocks.0", "blocks.1"]),
        ("gpt", ["blocks.0", "blocks.1"]),
        ("llama", ["layers.0", "layers.1"]),
        ("densenet", []),
        ("unet", []),
    ],
)
def test_candidates_are_residual(name: str, expected: list[str]) -> None:
    model, inputs = CASES[name]()
    model.train()
    influence = layer_candidates(model, inputs)
    assert list(influence) == expected
    assert all(0 <= value <= 2 for value in influence.values())
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_layers_that_only_keep_the_shape_are_none() -> None:
    model = nn.Sequential(nn.Linear(3, 8), PostNorm(), Plain(), PostNorm())
    assert list(layer_candidates(model, torch.randn(4, 3))) == ["1", "3"]


def test_a_layer_that_runs_twice_is_none() -> None:
    shared = PostNorm()
    model = nn.Sequential(nn.Linear(3, 8), PostNorm(), nn.Sequential(shared, nn.ReLU()), shared)
    assert list(layer_candidates(model, torch.randn(4, 3))) == ["1"]


def test_influence_is_that_of_the_paper() -> None:
    model, tokens = GPT(), torch.randint(30, (3, 7))
    found = layer_candidates(model, tokens)
    with torch.no_grad():
        x = model.tokens(tokens) + model.positions(torch.arange(7))
        for name, block in zip(found, model.blocks, strict=True):
            y = block(x)
            cosines = [
                torch.dot(a, b) / (a.norm() * b.norm())
                for a, b in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True)
            ]
            assert found[name] == pytest.approx(1 - torch.stack(cosines).mean().item(), abs=1e-6)
            x = y


def test_influence_of_images_compares_channels() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert block_influence(x, 2 * x) == pytest.approx(0, abs=1e-6)
    assert block_influence(x, -x) == pytest.approx(2, abs=1e-6)
    flat = x.permute(0, 2, 3, 1).reshape(-1, 3)
    other = torch.randn(2, 3, 4, 4)
    expected = 1 - F.cosine_similarity(flat, other.permute(0, 2, 3, 1).reshape(-1, 3)).mean()
    assert block_influence(x, other) == pytest.approx(expected.item(), abs=1e-6)


def test_a_layer_that_adds_nothing_has_no_influence_and_can_go() -> None:
    model, tokens = Llama().eval(), torch.randint(30, (2, 7))
    with torch.no_grad():
        model.layers[0].attention.o_proj.weight.zero_()
        model.layers[0].mlp.down.weight.zero_()
    influence = layer_candidates(model, tokens)
    assert min(influence, key=influence.__getitem__) == "layers.0"
    before = model(tokens)
    remove_layers(model, ["layers.0"], tokens)
    assert len(model.layers) == 1
    torch.testing.assert_close(model(tokens), before)
    assert list(layer_candidates(model, tokens)) == ["layers.0"]


def test_several_layers_of_several_lists() -> None:
    model = nn.Sequential(*[nn.Sequential(*[PostNorm() for _ in range(3)]) for _ in range(2)])
    kept = [model[0][1], model[1][0], model[1][2]]
    remove_layers(model, ["0.0", "0.2", "1.1"], torch.randn(4, 8))
    assert [len(part) for part in model] == [1, 2]
    assert [model[0][0], model[1][0], model[1][1]] == kept


def test_a_removal_that_fails_changes_nothing() -> None:
    model = ResNet()
    before = list(model.blocks)
    with pytest.raises(RuntimeError, match=r"does not run without 'blocks.1'.*Nothing was changed"):
        remove_layers(model, ["blocks.1"], torch.randn(2, 3, 8, 8))
    assert list(model.blocks) == before
    assert list(model.blocks._modules) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["blocks.7"], "got 'blocks.7'"),
        (["head"], "got 'head'"),
        (["blocks.0.conv1"], "got 'blocks.0.conv1'"),
        (["blocks.0", "blocks.1", "blocks.2"], "must leave at least one layer of 'blocks'"),
    ],
)
def test_errors_of_names(names: list[str], message: str) -> None:
    model = ResNet()
    with pytest.raises(ValueError, match=message):
        remove_layers(model, names, torch.randn(2, 3, 8, 8))
    assert len(model.blocks) == 3

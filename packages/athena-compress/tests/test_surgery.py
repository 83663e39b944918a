"""Removal of units: outputs, sizes, optimizers, and that a removal which fails changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from models import CASES, DenseNet, FlattenNet, MobileNet, ResNet, TwoInputs, UNet
from surgery import assert_equal_outputs, outputs, zero
from torch import Tensor, nn
from transformer_models import GPT, Llama, ViT

from athena_compress import DependencyGraph, dependencies, parameter_count


def made(name: str) -> tuple[nn.Module, Any, DependencyGraph]:
    """A model in eval mode with statistics and biases of its own."""
    model, inputs = CASES[name]()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.ndim == 1 and value.is_floating_point():
                value.normal_(std=0.5)
    return model.eval(), inputs, dependencies(model, inputs)


@pytest.mark.parametrize("name", CASES)
def test_removing_zero_units_changes_no_output(name: str) -> None:
    _, _, graph = made(name)
    for group in [group for group in graph.groups if group.removable]:
        model, inputs, graph = made(name)
        units = torch.randperm(group.size)[: max(group.size // 2, 1)]
        zero(model, graph.group(group.name), units)
        before, size = outputs(model, inputs), parameter_count(model)
        graph.remove({group.name: units})
        assert_equal_outputs(outputs(model, inputs), before)
        assert parameter_count(model) < size


@pytest.mark.parametrize("name", CASES)
def test_all_groups_at_once(name: str) -> None:
    model, inputs, graph = made(name)
    chosen = {g.name: torch.arange(0, g.size, 2)[: g.size - 1] for g in graph.groups if g.removable}
    for group, units in chosen.items():
        zero(model, graph.group(group), units)
    before = outputs(model, inputs)
    sizes = {group: graph.group(group).size - len(units) for group, units in chosen.items()}
    graph.remove(chosen)
    assert_equal_outputs(outputs(model, inputs), before)
    left = {group.name: group.size for group in graph.groups}
    assert {name: left[name] for name in sizes} == sizes
    again = {group.name: torch.tensor([0]) for group in graph.groups if group.removable}
    graph.remove(again)


@pytest.mark.parametrize("name", CASES)
def test_every_unit_but_one(name: str) -> None:
    _, _, graph = made(name)
    for group in [group for group in graph.groups if group.removable or group.statistics]:
        model, inputs, graph = made(name)
        graph.remove({group.name: torch.arange(1, group.size)})
        assert all(one.isfinite().all() for one in outputs(model, inputs))


@settings(max_examples=60)
@given(st.data())
def test_random_groups_step_by_step(data: st.DataObject) -> None:
    torch.manual_seed(0)
    model, inputs, graph = made(data.draw(st.sampled_from(sorted(CASES))))
    for _ in range(3):
        free = {group.name: group for group in graph.groups if group.removable}
        if not free:
            break
        chosen = data.draw(st.lists(st.sampled_from(sorted(free)), min_size=1, max_size=3, unique=True))
        units = {}
        for name in chosen:
            ids = st.integers(0, free[name].size - 1)
            drawn = data.draw(st.lists(ids, max_size=free[name].size - 1, unique=True))
            units[name] = torch.tensor(drawn, dtype=torch.int64)
            zero(model, free[name], units[name])
        before = outputs(model, inputs)
        graph.remove(units)
        assert_equal_outputs(outputs(model, inputs), before)


#: name -> units to keep by group, and the dense model of those sizes
DENSE: dict[str, tuple[dict[str, int], Callable[[], nn.Module]]] = {
    "resnet": (
        {"conv": 5, "blocks.0.conv1": 3, "blocks.1.conv1": 2, "blocks.1.conv2": 7, "blocks.2.conv1": 9},
        lambda: ResNet(5, (3, 2, 9), 7),
    ),
    "densenet": ({"layers.0.2": 2, "layers.1.2": 3, "layers.2.2": 1}, lambda: DenseNet((2, 3, 1))),
    "mobilenet": ({"stem": 3, "expand.0": 5, "squeeze": 2}, lambda: MobileNet(3, 5, 2)),
    "unet": ({"down1.0": 2, "down2.0": 3, "up": 4}, lambda: UNet((2, 3, 4))),
    "flatten": ({"conv": 2, "hidden": 3}, lambda: FlattenNet(2, 3)),
    "two-inputs": ({"image": 3, "shared": 2}, lambda: TwoInputs(3, 2)),
    "vit": (
        {
            "blocks.0.attention.query": 3,
            "blocks.0.mlp.0": 7,
            "blocks.1.attention.qkv": 1,
            "blocks.1.mlp.0": 5,
        },
        lambda: ViT((3, 1), (7, 5)),
    ),
    "gpt": (
        {
            f"blocks.{n}.{part}": kept
            for n in range(2)
            for part, kept in (("attention.attend", 2), ("mlp.0", 9))
        },
        lambda: GPT(2, 9),
    ),
    "llama": (
        {
            f"layers.{n}.{part}": kept
            for n in range(2)
            for part, kept in (("attention.q_proj", 2), ("mlp.gate", 9))
        },
        lambda: Llama(4, 2, 9),
    ),
    "llama-multi-query": (
        {
            f"layers.{n}.{part}": kept
            for n in range(2)
            for part, kept in (("attention.q_proj", 3), ("mlp.gate", 9))
        },
        lambda: Llama(3, 1, 9),
    ),
}


@pytest.mark.parametrize("name", DENSE)
def test_the_smaller_model_is_the_dense_model_of_its_sizes(name: str) -> None:
    kept, dense = DENSE[name]
    model, inputs, graph = made(name)
    graph.remove({group: torch.arange(count, graph.group(group).size) for group, count in kept.items()})
    expected = dense().eval()
    assert parameter_count(model) == parameter_count(expected)
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in expected.state_dict().items()
    }
    assert repr(model) == repr(expected)
    expected.load_state_dict(model.state_dict())
    assert_equal_outputs(outputs(model, inputs), outputs(expected, inputs))


def test_groups_and_norms_follow() -> None:
    model, inputs, graph = made("grouped")
    graph.remove({"wide": torch.tensor([0]), "mix": torch.tensor([1]), "up": torch.tensor([3])})
    graph.remove({"again": torch.tensor([0]), "reduce": torch.tensor([5])})
    conv = model.wide
    assert (conv.in_channels, conv.out_channels, conv.groups) == (10, 6, 2)
    assert (model.narrow.in_channels, model.narrow.out_channels, model.narrow.groups) == (6, 12, 3)
    assert (model.norm.num_groups, model.norm.num_channels) == (3, 12)
    assert (model.multiply.in_channels, model.multiply.out_channels, model.multiply.groups) == (12, 24, 12)
    assert (model.up.in_channels, model.up.out_channels, model.up.groups) == (12, 6, 2)
    assert (model.deep.in_channels, model.deep.out_channels, model.deep.groups) == (4, 8, 4)
    assert (model.plain.num_groups, model.plain.num_channels) == (2, 8)
    outputs(model, inputs)


def test_removal_where_a_normalisation_averages_must_be_named() -> None:
    model, inputs, graph = made("vit")
    graph.remove({"patches": torch.arange(4)})
    assert model.norm.normalized_shape == (12,)
    assert model.token.shape == (1, 1, 12)
    assert outputs(model, inputs)[0].isfinite().all()


OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(steps):
        x = torch.randn(4, 3, 8, 8, generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.randint(10, (4,), generator=generator)).backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_that_of_a_dense_model_with_the_state_that_is_left(name: str) -> None:
    model = ResNet()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 3)
    graph = dependencies(model, torch.randn(1, 3, 8, 8))
    graph.remove({"blocks.0.conv1": torch.tensor([1, 4]), "blocks.1.conv2": torch.tensor([0, 15])}, optimizer)
    dense = ResNet(8, (6, 6, 16), 14)
    dense.load_state_dict(model.state_dict())
    fresh = OPTIMIZERS[name](dense.parameters())
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, other in ((model, optimizer), (dense, fresh)):
        train(one, other, 3)
    for parameter, expected in zip(model.parameters(), dense.parameters(), strict=True):
        assert torch.equal(parameter, expected)


def test_state_and_gradients_keep_the_entries_that_stay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    first, last = model[0].weight, model[2].weight
    moment = {key: value.clone() for key, value in optimizer.state[first].items()}
    grad, rows = last.grad.clone(), first.detach().clone()
    dependencies(model, torch.randn(5, 3)).remove({"0": torch.tensor([2])}, optimizer)
    assert model[0].weight is first
    assert torch.equal(first, rows[[0, 1, 3]])
    assert torch.equal(last.grad, grad[:, [0, 1, 3]])
    assert torch.equal(optimizer.state[first]["exp_avg"], moment["exp_avg"][[0, 1, 3]])
    assert optimizer.state[first]["step"] == moment["step"]


def test_momentum_does_not_bring_back_what_is_gone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        if model[0].weight.shape[0] == 4:
            dependencies(model, torch.randn(5, 3)).remove({"0": torch.tensor([0, 3])}, optimizer)
    assert model[0].weight.shape == optimizer.state[model[0].weight]["momentum_buffer"].shape == (2, 3)


def test_state_of_other_shapes_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model[0].weight]["sketch"] = torch.zeros(7)
    graph = dependencies(model, torch.randn(5, 3))
    with pytest.raises(ValueError, match=r"'sketch' of '0.weight' has \(7,\)"):
        graph.remove({"0": torch.tensor([0])}, optimizer)
    assert model[0].weight.shape == (4, 3)


class Hard(nn.Module):
    """A width written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 2)
        self.register_buffer("gain", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        x = (self.first(x) * self.gain).view(len(x), 8, 1)
        return self.second(x.flatten(1))


class Sliced(nn.Module):
    """Places written into the code, which still runs when channels are missing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.first(x), self.second(x)
        return (y[:, :4] * z[:, :4]).sum(-1) + y[:, 4:].sum(-1) + z[:, 4:].sum(-1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Hard, "raised by the model.*take it from the"), (Sliced, "what belonged apart meets")],
)
def test_a_removal_that_fails_changes_nothing(kind: type[nn.Module], message: str) -> None:
    model = nn.Sequential(kind())
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.randn(5, 3)
    model(x).square().sum().backward()
    optimizer.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()]))
    identities = [id(parameter) for parameter in model.parameters()]
    graph = dependencies(model, x)
    name = next(group.name for group in graph.groups if group.removable)
    with pytest.raises(RuntimeError, match=message.replace("the model", "module '0'")):
        graph.remove({name: torch.tensor([1])}, optimizer)
    after = (model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()])
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert (model[0].first.out_features, graph.group(name).size) == (8, graph.group(name).size)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"nowhere": [0]}, "must name groups of the graph; got 'nowhere'"),
        ({"conv": [8]}, r"must lie in \[0, 8\); got \[8\]"),
        ({"conv": [-1]}, r"must lie in \[0, 8\); got \[-1\]"),
        ({"conv": list(range(8))}, "must leave at least one of 8 units"),
        ({"head": [0]}, "'head': they are an output of the model"),
    ],
)
def test_errors_of_units(units: dict[str, list[int]], message: str) -> None:
    model, _, graph = made("resnet")
    with pytest.raises(ValueError, match=message):
        graph.remove({name: torch.tensor(ids) for name, ids in units.items()})
    assert parameter_count(model) == parameter_count(ResNet())


def test_nothing_to_remove_is_no_work() -> None:
    _, _, graph = made("resnet")
    groups = graph.groups
    graph.remove({})
    graph.remove({"conv": torch.tensor([], dtype=torch.int64)})
    assert graph.groups is groups


def test_repeated_ids_count_once() -> None:
    model, _, graph = made("resnet")
    graph.remove({"conv": torch.tensor([3, 3, 3])})
    assert model.conv.out_channels == 7


def test_repr_lists_what_can_go() -> None:
    _, _, graph = made("flatten")
    assert repr(graph) == "DependencyGraph(conv: 6 channels, hidden: 10 neurons)"

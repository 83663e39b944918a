"""Importances against the papers' formulas, written plainly."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from athena_compress import (
    Importance,
    Lamp,
    Magnitude,
    Movement,
    Pruner,
    RandomImportance,
    Taylor,
    Wanda,
    _plugin,
)
from athena_compress._importance_laws import importance_checks
from athena_core import AthenaError, Component, create, hookimpl

IMPORTANCES = [Magnitude, RandomImportance, Movement, Taylor, Wanda, Lamp]
CHECKS = [
    pytest.param(check, id=f"{target.__name__}: {check.name}")
    for target in IMPORTANCES
    for check in importance_checks(Component("importance", "x", "x:x", "x"), target)
]


@pytest.mark.parametrize("check", CHECKS)
def test_laws(check: Any) -> None:
    check()


def test_magnitude_orders_alike_by_both_norms() -> None:
    weight = nn.Parameter(torch.randn(5, 7))
    assert torch.equal(Magnitude(norm=1).scores("w", weight), weight.detach().abs())
    assert torch.equal(Magnitude().scores("w", weight), weight.detach() ** 2)
    with pytest.raises(ValueError, match="`norm` must be 1 or 2; got 3"):
        Magnitude(norm=3)


def test_random_depends_on_seed_and_name() -> None:
    weight = nn.Parameter(torch.zeros(100))
    first = RandomImportance(seed=1).scores("a", weight)
    assert not torch.equal(first, RandomImportance(seed=2).scores("a", weight))
    assert not torch.equal(first, RandomImportance(seed=1).scores("b", weight))
    assert 0 <= first.min() < 0.2 < 0.8 < first.max() < 1
    with pytest.raises(ValueError, match="`seed` must be at least 0"):
        RandomImportance(seed=-1)


def test_movement_sums_minus_weight_times_gradient() -> None:
    weight = nn.Parameter(torch.randn(3, 4))
    importance, expected = Movement(), torch.zeros(3, 4)
    for _ in range(5):
        gradient = torch.randn(3, 4)
        importance.observe("w", weight, gradient)
        expected -= weight.detach() * gradient
        weight.data += 0.1 * torch.randn(3, 4)
    torch.testing.assert_close(importance.scores("w", weight), expected)


def test_movement_keeps_what_training_moves_away_from_zero() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[0.1, 1.0]])  # the small one grows, the large one shrinks
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    pruner = Pruner(layer, importance="movement", schedule=0.5, optimizer=optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        (layer(torch.eye(2)) - torch.tensor([[1.0], [0.0]])).square().sum().backward()
        optimizer.step()
    pruner.step()
    assert pruner.masks["weight"].tolist() == [[True, False]]


def test_taylor_averages_squares_since_the_last_pruning() -> None:
    weight = nn.Parameter(torch.randn(3, 4))
    gradients = torch.randn(5, 3, 4)
    importance = Taylor()
    for gradient in gradients:
        importance.observe("w", weight, gradient)
    expected = (weight.detach() * gradients).square().mean(0)
    torch.testing.assert_close(importance.scores("w", weight), expected)
    importance.after_pruning()
    with pytest.raises(RuntimeError, match=r"must have seen data for `w`.*pruner.observe\(\)"):
        importance.scores("w", weight)


def test_taylor_is_the_change_of_a_linear_loss() -> None:
    weight = nn.Parameter(torch.randn(6, dtype=torch.float64))
    direction = torch.randn(6, dtype=torch.float64)

    def loss(values: Tensor) -> Tensor:
        return (values * direction).sum()

    loss(weight).backward()
    importance = Taylor()
    assert weight.grad is not None
    importance.observe("w", weight, weight.grad)
    whole = weight.detach()
    expected = []
    for index in range(6):
        without = whole.clone()
        without[index] = 0
        expected.append((loss(whole) - loss(without)).square())
    torch.testing.assert_close(importance.scores("w", weight), torch.stack(expected))


def test_lamp_is_the_papers_sum_over_what_is_left() -> None:
    weight = nn.Parameter(torch.randn(4, 3))
    flat = weight.detach().flatten()
    expected = [float(v**2 / flat[flat.abs() >= v.abs()].square().sum()) for v in flat]
    assert Lamp().scores("w", weight).flatten().tolist() == pytest.approx(expected, rel=1e-5)
    assert Lamp().scores("w", nn.Parameter(torch.zeros(3))).tolist() == [0, 0, 0]
    assert Lamp().scores("w", nn.Parameter(torch.zeros(0, 3))).shape == (0, 3)


def test_lamp_never_empties_a_layer() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight.data *= 1e-4
    pruner = Pruner(model, importance="lamp", schedule=0.9)
    pruner.step()
    kept = [part.kept for part in pruner.summary().parts]
    assert min(kept) > 1
    plain = Pruner(nn.Sequential(model[0], model[1]), schedule=0.95)
    with pytest.warns(UserWarning, match="`1.weight` keeps one weight"):
        plain.step()


def test_wanda_of_a_linear_layer_by_brute_force() -> None:
    layer = nn.Linear(6, 4)
    batches = [torch.randn(2, 3, 6), torch.randn(5, 6)]
    importance = Wanda()
    for batch in batches:
        importance.observe_inputs("weight", layer, batch)
    inputs = torch.cat([batch.reshape(-1, 6) for batch in batches])
    expected = torch.empty(4, 6)
    for row in range(4):
        for column in range(6):
            expected[row, column] = layer.weight[row, column].abs() * inputs[:, column].norm()
    torch.testing.assert_close(importance.scores("weight", layer.weight), expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": "same"},
        {"groups": 2},
        {"padding": 1, "padding_mode": "circular", "groups": 4},
    ],
)
def test_wanda_of_a_convolution_is_that_of_its_patches(options: dict[str, Any]) -> None:
    layer = nn.Conv2d(4, 8, 3, bias=False, **options)
    inputs = torch.randn(3, 4, 9, 7)
    importance = Wanda()
    importance.observe_inputs("weight", layer, inputs)
    # The patches are what a kernel of a single 1 gives.
    expected = torch.empty(layer.weight.shape)
    probe = nn.Conv2d(4, 8, 3, bias=False, **options)
    for index in range(expected[0].numel()):
        probe.weight.data.zero_()
        probe.weight.data.flatten(1)[:, index] = 1
        norms = probe(inputs).square().sum((0, 2, 3)).sqrt()
        expected.flatten(1)[:, index] = layer.weight.flatten(1)[:, index].abs() * norms
    torch.testing.assert_close(importance.scores("weight", layer.weight), expected.detach())


def test_wanda_of_other_layers() -> None:
    conv = nn.Conv1d(2, 3, 2)
    importance = Wanda()
    importance.observe_inputs("c", conv, torch.ones(2, 5))  # one example, without a batch
    torch.testing.assert_close(importance.scores("c", conv.weight), conv.weight.detach().abs() * 2)

    transposed = nn.ConvTranspose2d(2, 3, 2)
    inputs = torch.randn(4, 2, 3, 3)
    importance.observe_inputs("t", transposed, inputs)
    norms = inputs.transpose(0, 1).flatten(1).norm(dim=1).view(2, 1, 1, 1)
    torch.testing.assert_close(
        importance.scores("t", transposed.weight), transposed.weight.detach().abs() * norms
    )

    embedding = nn.Embedding(4, 3)
    importance.observe_inputs("e", embedding, torch.tensor([[0, 0, 0, 0], [1, 3, 3, 3]]))
    norms = functional.one_hot(torch.tensor([0, 0, 0, 0, 1, 3, 3, 3])).float().norm(dim=0)[:, None]
    torch.testing.assert_close(
        importance.scores("e", embedding.weight), embedding.weight.detach().abs() * norms
    )


def test_wanda_prunes_each_row_by_itself_and_needs_batches() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
    pruner = Pruner(model, importance="wanda", schedule=0.5)
    with pytest.raises(RuntimeError, match=r"`0.weight`, and has seen none. .*pruner.calibrate"):
        pruner.step()
    batches = [torch.randn(5, 8), (torch.randn(5, 8),), {"input": torch.randn(3, 8)}]
    pruner.calibrate(batches)
    assert model.training
    assert model[2].training
    norms = torch.cat([batches[0], batches[1][0], batches[2]["input"]]).norm(dim=0)
    pruner.step()
    scores = model[0].weight.detach().abs()
    assert (pruner.masks["0.weight"].sum(1) == 4).all()
    assert (pruner.masks["3.weight"].sum(1) == 2).all()
    assert norms.shape == scores.shape[1:]
    with pytest.raises(ValueError, match="`batches` must hold at least one batch"):
        pruner.calibrate([])
    with pytest.raises(ValueError, match=r"`inputs` of the layer of `0.weight` must be finite"):
        pruner.calibrate([torch.full((1, 8), float("nan"))])
    assert not model[0]._forward_pre_hooks


def test_wanda_differs_from_magnitude_where_inputs_differ() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 2.0]])
    pruner = Pruner(layer, importance="wanda", schedule=0.5)
    pruner.calibrate([torch.tensor([[9.0, 1.0]])])
    pruner.step()
    assert layer.weight.tolist() == [[1.0, 0.0]]


def test_names_come_from_the_registry(athena_host: Any) -> None:
    athena_host.register(_plugin, "athena-compress", "0.1.0", "compress")
    assert isinstance(create("importance", "magnitude", norm=1), Magnitude)
    with pytest.raises(AthenaError, match="Did you mean `magnitude`"):
        Pruner(nn.Linear(2, 2), importance="magnitud", schedule=0.5)


class Centred(Importance):
    """Far from the mean of its tensor: somebody else's."""

    def scores(self, name: str, parameter: nn.Parameter) -> Tensor:
        return (parameter.detach() - parameter.detach().mean()).abs()


def test_a_strangers_importance_is_used_by_name(athena_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stranger:
        @hookimpl
        def athena_components(self) -> list[Component]:
            return [Component("importance", "centred", "stranger:Centred", "Far from the mean")]

    module = ModuleType("stranger")
    module.Centred = Centred  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "stranger", module)
    athena_host.register(_plugin, "athena-compress", "0.1.0", "compress")
    athena_host.register(Stranger(), "stranger", "1.0", "stranger")
    layer = nn.Linear(4, 1)
    layer.weight.data = torch.tensor([[1.0, 1.1, 5.0, 1.2]])
    pruner = Pruner(layer, importance="centred", schedule=0.5)
    pruner.step()
    assert pruner.masks["weight"].tolist() == [[True, False, True, False]]


def test_scores_of_another_shape_or_not_finite_are_refused() -> None:
    class Odd(Importance):
        def __init__(self, result: Tensor) -> None:
            super().__init__()
            self.result = result

        def scores(self, name: str, parameter: nn.Parameter) -> Tensor:
            return self.result

    with pytest.raises(TypeError, match=r"Odd.scores must return the shape \(2, 2\) of `weight`; got \(2,\)"):
        Pruner(nn.Linear(2, 2), importance=Odd(torch.zeros(2)), schedule=0.5).step()
    with pytest.raises(ValueError, match="Odd must give finite scores; those of `weight`"):
        Pruner(nn.Linear(2, 2), importance=Odd(torch.full((2, 2), torch.inf)), schedule=0.5).step()
    with pytest.raises(ValueError, match="`state_dict` must hold `gathered` and `counts`"):
        Magnitude().load_state_dict({})

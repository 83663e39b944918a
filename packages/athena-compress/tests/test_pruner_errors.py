"""What a pruner refuses: weights, options and states that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from athena_compress import LinearSchedule, Magnitude, Pruner


def make_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float) -> None:
    model = make_model()
    model[3].weight.data[0, 0] = value
    before = model[0].weight.detach().clone()
    pruner = Pruner(model, schedule=0.5)
    with pytest.raises(ValueError, match=r"`3\.weight` must be finite to be pruned"):
        pruner.step()
    assert torch.equal(model[0].weight, before)
    assert pruner.steps == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"what": "filters", "schedule": 0.5}, "`what` must be 'weights', n:m"),
        ({"what": ("weights", "channels"), "schedule": 0.5}, "Give each of them a Pruner of its own"),
        ({"what": ("layers", "heads"), "schedule": 0.5}, "Give each of them a Pruner of its own"),
        ({"what": (), "schedule": 0.5}, "`what` must be"),
        ({"what": "4:4"}, "`what` must keep at least 1 of n:m weights and prune one"),
        ({"what": "2:4", "schedule": 0.75}, "`schedule` must end at 0.5, as 2:4 prunes; got 0.75"),
        ({"what": "2:4", "scope": "local"}, "`scope` must be left out for '2:4'"),
        ({}, "`schedule` must say which share to prune"),
        ({"schedule": 1.0}, "`final` must lie in"),
        ({"schedule": 0.5, "scope": "everywhere"}, "`scope` must be 'global', 'local' or 'row'"),
        ({"schedule": 0.5, "round_to": 8}, "`round_to` must be 1 for 'weights'; got 8"),
        ({"schedule": 0.5, "round_to": 0}, "`round_to` must be a whole number from 1 on"),
        ({"schedule": 0.5, "what": "channels"}, "`example_inputs` must be what the model is called with"),
        ({"schedule": 0.5, "what": "channels", "scope": "row"}, "Rows are of weights"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Pruner(make_model(), **options)


@pytest.mark.parametrize("importance", ["magnitude", "movement"])
def test_structure_removed_under_masks_is_refused(importance: str) -> None:
    model, x = make_model(), torch.randn(4, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masks = Pruner(model, importance=importance, schedule=LinearSchedule(0.5, steps=3), optimizer=optimizer)
    model(x).square().sum().backward()
    optimizer.step()
    masks.step()
    Pruner(model, x, what="neurons", schedule=0.5, optimizer=optimizer).step()
    model(x).square().sum().backward()
    with pytest.raises(
        ValueError, match=r"must keep the shape of its mask, \(.*\); got .* Prune structure first"
    ):
        optimizer.step()


def test_what_is_no_schedule_or_importance_is_refused() -> None:
    with pytest.raises(TypeError, match="`schedule` must be a SparsitySchedule or a number; got 'cubic'"):
        Pruner(make_model(), schedule="cubic")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="`importance` must be a name or an Importance; got <class"):
        Pruner(make_model(), schedule=0.5, importance=Magnitude)  # pyright: ignore[reportArgumentType]


def test_states_that_do_not_fit_are_refused() -> None:
    pruner = Pruner(make_model(), schedule=0.5)
    with pytest.raises(ValueError, match="`state_dict` must be a Pruner's"):
        pruner.load_state_dict({"step": 1})
    other = Pruner(nn.Sequential(nn.Linear(8, 8)), what="2:4")
    with pytest.raises(ValueError, match="got one of"):
        pruner.load_state_dict(other.state_dict())
    wider = Pruner(nn.Sequential(nn.Linear(8, 8)), schedule=0.5)
    with pytest.raises(ValueError, match=r"`0.weight` has the shape \(16, 6\) here and \(8, 8\) there"):
        pruner.load_state_dict(wider.state_dict())
    assert pruner.steps == 0


def test_an_optimizer_of_another_model_is_refused() -> None:
    # its momentum would revive what is pruned here, unseen
    model = nn.Sequential(nn.Linear(4, 4))
    other = torch.optim.SGD(nn.Linear(4, 4).parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match="`optimizer` must hold parameters of `model`; got one that holds none"
    ):
        Pruner(model, schedule=0.5, optimizer=other)
    with pytest.raises(ValueError, match=r"`optimizer` must be a torch.optim.Optimizer; got 3"):
        Pruner(model, schedule=0.5, optimizer=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="must be a string or several; got 3"):
        Pruner(model, what=3, schedule=0.5)  # pyright: ignore[reportArgumentType]

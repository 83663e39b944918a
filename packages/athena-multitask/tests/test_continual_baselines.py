"""Fine-tuning and frozen features, on any module."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from athena_multitask import FrozenFeatures, fine_tuning


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3)),
    )


def test_fine_tuning_goes_on_from_all_weights_but_fresh_ones():
    model = network().requires_grad_(False)
    tuned: Any = fine_tuning(model, fresh=["4.1"])
    assert torch.equal(tuned[0].weight, model[0].weight)
    assert torch.equal(tuned[4][0].weight, model[4][0].weight)
    assert not torch.equal(tuned[4][1].weight, model[4][1].weight)
    assert all(parameter.requires_grad for parameter in tuned.parameters())
    with torch.no_grad():
        tuned[0].weight.zero_()
    assert model[0].weight.any()  # the model is left as it is


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_frozen_features_keep_their_bits(decay):
    model = network()
    frozen: Any = FrozenFeatures(model, trained=["4.1"], fresh=["4.1"])
    before = copy.deepcopy(frozen.state_dict())
    optimizer = torch.optim.AdamW(frozen.parameters(), lr=0.1, weight_decay=decay)
    for _ in range(3):
        frozen.train()
        optimizer.zero_grad()
        frozen(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    changed = {name for name, tensor in frozen.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"model.4.1.weight", "model.4.1.bias"}
    assert [id(p) for p in frozen.parameters_to_train()] == [id(p) for p in frozen.model[4][1].parameters()]
    assert frozen.training
    assert frozen.model[4][1].training
    assert not frozen.model[3].training
    frozen.requires_grad_(True)
    assert len(frozen.parameters_to_train()) == 2
    assert not frozen.eval().model[4][1].training


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FrozenFeatures(network(), trained=[]), "`trained` must name a submodule; got none"),
        (
            lambda: FrozenFeatures(network(), trained=["head"]),
            "`trained` must be names of submodules; got 'head'",
        ),
        (lambda: fine_tuning(network(), fresh=["head"]), "`fresh` must be names of submodules; got 'head'"),
        (lambda: fine_tuning(network(), fresh=[""]), "`fresh` must be names of submodules; got ''"),
    ],
)
def test_misuse_is_told_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)

"""`param_groups`: matrices decay, the rest does not, each parameter once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from athena_optim import AdamW, param_groups


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.LayerNorm(3)
        self.convolution = nn.Conv1d(3, 3, 2)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight
        self.gain = nn.Parameter(torch.tensor(1.0))


def test_matrices_decay_and_tied_weights_appear_once():
    model = Tied()
    decaying, others = param_groups(model, weight_decay=0.1)
    assert [id(p) for p in decaying["params"]] == [id(model.embedding.weight), id(model.convolution.weight)]
    assert {p.ndim for p in others["params"]} == {0, 1}
    assert len(others["params"]) == 5
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_frozen_parameters_and_empty_groups_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    model[0].requires_grad_(False)
    groups = param_groups(model)
    assert len(groups) == 1
    assert [id(p) for p in groups[0]["params"]] == [id(model[1].weight)]


def test_decay_of_none_is_the_optimizers_default():
    decaying, others = param_groups(Tied())
    assert "weight_decay" not in decaying
    optimizer = AdamW([decaying, others], weight_decay=0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


def test_without_gradients_only_matrices_shrink():
    """A zero gradient leaves decay alone: (1 - lr * decay) for matrices, nothing for the others."""
    model = nn.Linear(3, 2)
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    AdamW(param_groups(model, weight_decay=0.5), lr=0.1).step()
    torch.testing.assert_close(model.weight.data, 0.95 * before[0])
    assert torch.equal(model.bias, before[1])


@pytest.mark.parametrize("weight_decay", [-0.1, math.nan])
def test_bad_decay_is_refused(weight_decay):
    with pytest.raises(ValueError, match="`weight_decay` must be at least 0"):
        param_groups(Tied(), weight_decay=weight_decay)


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="Linear has none"):
        param_groups(nn.Linear(2, 2).requires_grad_(False))

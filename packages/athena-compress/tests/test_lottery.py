"""Lottery tickets: rewinding under the mask, rounds, refusals."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from athena_compress import LotteryTicket, Pruner, lottery_rounds

INPUTS = torch.randn(16, 5, generator=torch.Generator().manual_seed(2))


def make() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (model(INPUTS) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("early", [0, 3])
def test_rewound_weights_are_the_early_ones_under_the_mask(early: int) -> None:
    model, optimizer = make()
    train(model, optimizer, early)
    ticket = LotteryTicket(model, optimizer)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    pruner = Pruner(model, schedule=0.5, optimizer=optimizer)
    train(model, optimizer)
    pruner.step()
    masks = pruner.masks
    ticket.rewind(pruner)
    for name, value in model.state_dict().items():
        assert torch.equal(value, start[name] * masks[name] if name in masks else start[name])
    momentum = optimizer.state[model[0].weight].get("momentum_buffer")
    if early:
        assert momentum is not None
        assert torch.equal(momentum != 0, masks["0.weight"])
    else:
        assert momentum is None
    train(model, optimizer)
    assert (model[0].weight[~masks["0.weight"]] == 0).all()


def test_each_round_prunes_the_same_share_of_what_is_left() -> None:
    model, optimizer = make()
    start = model[0].weight.detach().clone()
    ticket = LotteryTicket(model, optimizer)
    shares, previous = [], torch.ones(8, 5, dtype=torch.bool)
    for pruner in lottery_rounds(ticket, lambda: train(model, optimizer), final=0.875, rounds=3):
        mask = pruner.masks["0.weight"]
        assert (mask <= previous).all()
        assert torch.equal(model[0].weight, start * mask)
        shares.append(pruner.sparsity)
        previous = mask
    assert shares == [0.5, 0.75, 0.875]
    assert not optimizer.state


def test_a_ticket_survives_a_file() -> None:
    model, optimizer = make()
    ticket = LotteryTicket(model, optimizer)
    start = model[0].weight.detach().clone()
    file = io.BytesIO()
    torch.save(ticket.state_dict(), file)
    file.seek(0)
    train(model, optimizer)
    late = LotteryTicket(model, optimizer)
    late.load_state_dict(torch.load(file, weights_only=True))
    late.rewind()
    assert torch.equal(model[0].weight, start)
    assert not optimizer.state
    with pytest.raises(ValueError, match="`state_dict` must be a ticket of this model"):
        late.load_state_dict(LotteryTicket(nn.Linear(2, 2)).state_dict())


def test_what_does_not_fit_is_refused() -> None:
    model, optimizer = make()
    with pytest.raises(ValueError, match="`ticket` must have an optimizer"):
        lottery_rounds(LotteryTicket(model), lambda: None, final=0.5, rounds=2)
    with pytest.raises(ValueError, match="`rounds` must be at least 1"):
        lottery_rounds(LotteryTicket(model, optimizer), lambda: None, final=0.5, rounds=0)
    structure = Pruner(model, INPUTS, what="neurons", schedule=0.5)
    with pytest.raises(ValueError, match="`pruner` must be one of weights"):
        LotteryTicket(model).rewind(structure)

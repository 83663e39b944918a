"""The likelihoods of actions against plain loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from athena_explore import Actions

SPACES = {
    "discrete": spaces.Discrete(4, start=-1),
    "multi-discrete": spaces.MultiDiscrete([2, 3], start=[1, 5]),
    "table of multi-discrete": spaces.MultiDiscrete([[2, 3], [4, 2]]),
    "multi-binary": spaces.MultiBinary([2, 2]),
    "continuous": spaces.Box(-1, 1, (2, 3), np.float32),
    "64 bits": spaces.Box(-1, 1, (2,), np.float64),
}


def slow(space: spaces.Space, outputs: list[float], action: np.ndarray) -> float:
    if isinstance(space, spaces.Discrete):
        return _softmax(outputs, int(action) - int(space.start))
    values = action.flatten().tolist()
    if isinstance(space, spaces.MultiDiscrete):
        total, at = 0.0, 0
        for value, start, size in zip(values, space.start.flatten(), space.nvec.flatten(), strict=True):
            total += _softmax(outputs[at : at + size], value - start)
            at += size
        return total
    if isinstance(space, spaces.MultiBinary):
        return sum(math.log1p(math.exp(-z if a else z)) for z, a in zip(outputs, values, strict=True))
    return sum((z - a) ** 2 / 2 for z, a in zip(outputs, values, strict=True))


def _softmax(outputs: list[float], chosen: int) -> float:
    return math.log(sum(math.exp(z) for z in outputs)) - outputs[chosen]


@pytest.mark.parametrize("name", SPACES)
def test_loss_is_the_negative_log_likelihood(name: str) -> None:
    space = SPACES[name]
    space.seed(0)
    actions = Actions(space)
    chosen = np.stack([space.sample() for _ in range(7)])
    outputs = torch.randn(7, actions.width)
    found = actions.loss(outputs, torch.as_tensor(chosen))
    expected = [
        slow(space, row.double().tolist(), action) for row, action in zip(outputs, chosen, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("name", SPACES)
def test_dense_actions_tell_each_apart(name: str) -> None:
    space = SPACES[name]
    space.seed(0)
    actions = Actions(space)
    chosen = torch.as_tensor(np.stack([space.sample() for _ in range(30)]))
    rows = actions.dense(chosen)
    assert rows.shape == (30, actions.width)
    assert rows.dtype == torch.float32
    assert len(rows.unique(dim=0)) == len(
        chosen.flatten(1).unique(dim=0) if chosen.dim() > 1 else chosen.unique()
    )


def test_parts_of_an_action_are_independent() -> None:
    space = spaces.Dict({"move": spaces.Discrete(3), "look": spaces.Box(-1, 1, (2,), np.float32)})
    action = {"look": torch.tensor([[0.5, 1.0]]), "move": torch.tensor([2])}
    actions = Actions(space)
    assert actions.dense(action).tolist() == [[0.5, 1.0, 0, 0, 1]]  # Gymnasium sorts the names
    outputs = torch.tensor([[1.5, 1.0, 0, 0, 0]])
    torch.testing.assert_close(actions.loss(outputs, action), torch.tensor([0.5 + math.log(3)]))


def test_strided_and_no_actions() -> None:
    actions = Actions(spaces.MultiDiscrete([3, 3]))
    strided = torch.randint(3, (2, 8)).T
    outputs = torch.randn(8, 6)
    torch.testing.assert_close(actions.loss(outputs, strided), actions.loss(outputs, strided.contiguous()))
    assert actions.loss(torch.zeros(0, 6), strided[:0]).shape == (0,)
    assert actions.dense(strided[:0]).shape == (0, 6)

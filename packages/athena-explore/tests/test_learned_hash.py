"""The learned hash: its loss by hand, what its codes become, and what they tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from athena_explore import LearnedHash, Transition
from athena_explore._bonus_laws import walk

ACTIONS = spaces.Discrete(3)
LATTICE = spaces.Box(-4, 4, (3,), np.float32)


def arriving(states: Tensor) -> Transition:
    ends = torch.zeros(len(states), 1, dtype=torch.bool)
    return Transition(states[:, None], torch.zeros(len(states), 1), states[:, None], ends, ends)


class Logits(nn.Module):
    """An encoder that hands its input on."""

    def __init__(self, space: spaces.Space, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, observations: Tensor) -> Tensor:
        return self.scale * observations


def test_the_loss_is_that_of_the_formula():
    bonus = LearnedHash(LATTICE, ACTIONS, width=3, noise=0.0, encoder=Logits, hidden=())
    rows = torch.randn(50, 3).clamp(-4, 4)
    bonus.observations.update(rows)
    errors, distances = bonus.losses(rows)
    values = rows.double()
    values = (values - values.mean(0)) / values.var(0, correction=0).sqrt()
    codes = 1 / (1 + (-values.clamp(-5, 5)).exp())
    linear = bonus.decoder[0]
    decoded = codes @ linear.weight.double().T + linear.bias.double()
    torch.testing.assert_close(errors.double(), (decoded - values).square().sum(1) / 2, rtol=1e-4, atol=1e-5)
    worked = torch.minimum((1 - codes) ** 2, codes**2).mean(1)
    torch.testing.assert_close(distances.double(), worked, rtol=1e-4, atol=1e-6)


def test_noise_is_uniform_within_its_bounds_and_only_in_training():
    bonus = LearnedHash(LATTICE, ACTIONS, width=3, noise=0.3, encoder=Logits, hidden=())
    rows = torch.zeros(2000, 3)
    bonus.observations.update(torch.randn(100, 3))
    linear = bonus.decoder[0]
    with torch.no_grad():
        linear.weight.copy_(torch.eye(3))
        linear.bias.copy_(bonus.observations(rows)[0] - bonus.codes(rows)[0])  # what is left is the noise
    errors, _ = bonus.losses(rows)
    assert errors.max() <= 3 * 0.3**2 / 2
    assert errors.mean().item() == pytest.approx(3 * 0.3**2 / 3 / 2, rel=0.1)
    assert torch.equal(bonus.codes(rows), bonus.codes(rows))


def test_codes_become_binary_and_tell_states_apart():
    corners = torch.tensor([[x, y, z] for x in (-4.0, 4.0) for y in (-4.0, 4.0) for z in (-4.0, 4.0)])
    rollout = arriving(corners.repeat(16, 1))
    bonus = LearnedHash(LATTICE, ACTIONS, width=32, lr=3e-3, epochs=10)
    first = bonus.update(rollout)
    for _ in range(10):
        last = bonus.update(rollout)
    assert last["reconstruction_error"] < first["reconstruction_error"] / 2
    assert last["distance_from_binary"] < first["distance_from_binary"] / 2
    keys = bonus._state_keys(corners)
    assert len(keys.unique()) == 8
    moved = corners + 0.1 * torch.randn(8, 3)
    assert torch.equal(bonus._state_keys(moved.clamp(-4, 4)), keys)


def test_the_key_is_that_of_the_rounded_code():
    bonus = LearnedHash(LATTICE, ACTIONS, bits=64)
    bonus.update(walk(20, 2))
    rows = walk(20, 2).next_obs.flatten(0, 1)
    code = (bonus.codes(rows) > 0.5).float()
    assert torch.equal(bonus._state_keys(rows), bonus.signs(code))


def test_the_first_rollout_has_no_rewards_and_is_not_counted():
    bonus = LearnedHash(LATTICE, ACTIONS)
    rollout = walk(20, 2)
    assert not bonus.score(rollout).any()
    assert bonus.update(rollout)["states"] == 0
    assert bonus.score(rollout).any()
    assert bonus.update(rollout)["states"] > 1


def test_learning_moves_all_but_the_projection():
    bonus = LearnedHash(LATTICE, ACTIONS)
    before = {name: tensor.clone() for name, tensor in bonus.named_parameters()}
    projection = bonus.signs.projection.clone()
    bonus.update(walk(50, 2))
    assert torch.equal(bonus.signs.projection, projection)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in bonus.named_parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": -0.1}, "`noise` must be at least 0; got -0.1"),
        ({"binary_weight": -1.0}, "`binary_weight` must be at least 0; got -1.0"),
        ({"lr": 0.0}, "`lr` must be a positive number; got 0.0"),
        ({"minibatches": 0}, "`minibatches` must be at least 1; got 0"),
        ({"bits": 70}, "`bits` must lie in"),
    ],
)
def test_refuses_bad_options(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        LearnedHash(LATTICE, ACTIONS, **options)


def test_its_options_are_used():
    rollout = walk(50, 2)
    distances = []
    for weight in (0.0, 100.0):
        bonus = LearnedHash(LATTICE, ACTIONS, width=16, binary_weight=weight, hidden=(8,), lr=1e-2)
        assert bonus.encoder.body[0].out_features == 8
        for _ in range(100):
            metrics = bonus.update(rollout)
        distances.append(metrics["distance_from_binary"])
    assert distances[1] < distances[0] / 2, distances

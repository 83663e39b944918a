"""RE3 beside a loop over all neighbours in float64, worked values, and its bounded memory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from athena_explore import RE3, Transition
from athena_explore._bonus_laws import walk

ACTIONS = spaces.Discrete(3)
LATTICE = spaces.Box(-4, 4, (3,), np.float32)
LINE = spaces.Box(-np.inf, np.inf, (1,))


def as_it_is(space: spaces.Space, width: int) -> nn.Module:
    return nn.Identity()


def on_a_line(*positions: float) -> Transition:
    states = torch.tensor(positions)[:, None, None]
    ends = torch.zeros(len(positions), 1, dtype=torch.bool)
    return Transition(states, torch.zeros(len(positions), 1), states, ends, ends)


class Plain:
    """Distances to all that are remembered, one state after the other."""

    def __init__(self, k: int, capacity: int, decay: float) -> None:
        self.k, self.capacity, self.decay = k, capacity, decay
        self.remembered: list[np.ndarray] = []
        self.time = 0

    def entropy(self, state: np.ndarray) -> float:
        distances = sorted(float(np.linalg.norm(state - other)) for other in self.remembered)
        return math.log(distances[: self.k][-1] + 1) if distances else 0.0

    def __call__(self, transition: Transition) -> Tensor:
        rewards = torch.zeros(transition.shape, dtype=torch.float64)
        for t in range(transition.shape[0]):
            for n in range(transition.shape[1]):
                if transition.valid[t, n]:
                    state = transition.next_obs[t, n].double().numpy()
                    rewards[t, n] = (1 - self.decay) ** self.time * self.entropy(state)
                    self.remembered = [*self.remembered, state][-self.capacity :]
                    self.time += 1
        return rewards


@pytest.mark.parametrize(
    ("k", "capacity", "decay"), [(1, 1, 0.0), (3, 1000, 0.0), (3, 40, 0.01), (5, 7, 0.5)]
)
def test_rewards_are_those_of_a_loop(k: int, capacity: int, decay: float):
    bonus = RE3(LATTICE, ACTIONS, k=k, capacity=capacity, decay=decay, encoder=as_it_is)
    plain = Plain(k, capacity, decay)
    for seed, steps in enumerate((1, 90, 0, 20)):
        rollout = walk(90, 3, seed=seed, together=False)[:steps]
        rollout = replace(rollout, next_obs=rollout.next_obs + torch.rand(steps, 3, 3))
        rollout = replace(rollout, valid=torch.rand(steps, 3) < 0.9, next_obs=rollout.next_obs.clamp(-4, 4))
        torch.testing.assert_close(bonus.score(rollout).double(), plain(rollout), rtol=1e-4, atol=1e-5)
        bonus.update(rollout)
        assert len(bonus.memory["features"]) == len(plain.remembered) <= capacity
    samples = walk(10, 2, seed=8).flat()
    expected = [plain.entropy(state) for state in samples.next_obs.double().numpy()]
    expected = torch.tensor(expected) * (1 - decay) ** (plain.time - 1)
    torch.testing.assert_close(bonus.score_samples(samples), expected.float(), rtol=1e-4, atol=1e-5)


def test_worked_values_on_a_line():
    bonus = RE3(LINE, ACTIONS, k=2, encoder=as_it_is)
    rewards = bonus.score(on_a_line(0.0, 3.0, 1.0, 1.5)).flatten()
    # none before; 3 the only one; of 1 and 2 the second; of 0.5, 1.5, 1.5 the second
    torch.testing.assert_close(rewards.expm1(), torch.tensor([0.0, 3.0, 2.0, 1.5]))


def test_states_seen_before_are_at_no_distance_exactly():
    bonus = RE3(LATTICE, ACTIONS, k=1, width=50)
    state = torch.full((40, 2, 3), 3.7)
    ends = torch.zeros(40, 2, dtype=torch.bool)
    assert not bonus.score(Transition(state, torch.zeros(40, 2), state, ends, ends)).any()


def test_the_oldest_are_forgotten():
    bonus = RE3(LINE, ACTIONS, k=1, capacity=2, encoder=as_it_is)
    rewards = bonus.score(on_a_line(0.0, 10.0, 20.0, 0.0)).flatten().expm1()
    torch.testing.assert_close(rewards, torch.tensor([0.0, 10.0, 10.0, 10.0]))
    bonus.update(on_a_line(0.0, 10.0, 20.0, 0.0))
    assert bonus.memory["features"].flatten().tolist() == [20.0, 0.0]
    assert bonus.memory["features"].untyped_storage().nbytes() == 2 * 4


def test_a_bonus_that_decays():
    bonus = RE3(LINE, ACTIONS, k=1, decay=0.5, encoder=as_it_is)
    rewards = bonus.score(on_a_line(0.0, 1.0, 2.0)).flatten()
    torch.testing.assert_close(rewards, math.log(2) * torch.tensor([0.0, 0.5, 0.25]))


def test_samples_before_anything_is_remembered_have_no_reward():
    bonus = RE3(LINE, ACTIONS)
    assert bonus.score_samples(on_a_line(1.0, 2.0).flat()).tolist() == [0, 0]


def test_the_encoder_is_frozen_drawn_by_the_seed_and_saved():
    one, same, other = (RE3(LATTICE, ACTIONS, seed=seed, hidden=(5,), width=7) for seed in (0, 0, 1))
    assert not any(parameter.requires_grad for parameter in one.parameters())
    assert one.encoder.body[0].out_features == 5
    rollout = walk(20, 2)
    assert torch.equal(one.score(rollout), same.score(rollout))
    assert not torch.equal(one.score(rollout), other.score(rollout))
    one.update(rollout)
    assert torch.equal(one.encoder(rollout.obs[0]), same.encoder(rollout.obs[0]))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.score(walk(5, 2, seed=1)), other.score(walk(5, 2, seed=1)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0}, r"`k` must lie in \[1, 4096\].*got 0"),
        ({"k": 9, "capacity": 8}, r"`k` must lie in \[1, 8\].*got 9"),
        ({"decay": -0.1}, "`decay` must lie in"),
    ],
)
def test_refuses_bad_options(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        RE3(LATTICE, ACTIONS, **options)

"""RIDE against loops in float64, values by hand, and the training of its features."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from athena_explore import ICM, RIDE, Transition
from athena_explore._bonus_laws import ACTIONS, VECTOR, walk


@torch.no_grad()
def reference_rewards(bonus: RIDE, rollouts: list[Transition]) -> list[list[list[float]]]:
    """``[rollout][t][n]``: one environment after the other, one row after the other, in float64."""
    encoder = copy.deepcopy(bonus.icm.features.encoder).double()
    n_envs = rollouts[0].shape[1]
    visits: list[Counter[tuple[float, ...]]] = [Counter() for _ in range(n_envs)]
    everything = []
    for rollout in rollouts:
        rewards = [[0.0] * n_envs for _ in range(len(rollout.valid))]
        for n in range(n_envs):
            for t in range(len(rollout.valid)):
                if not rollout.valid[t, n]:
                    continue
                obs, next_obs = rollout.obs[t, n].double(), rollout.next_obs[t, n].double()
                visits[n][tuple(next_obs.tolist())] += 1
                change = float((encoder(next_obs[None]) - encoder(obs[None])).norm())
                rewards[t][n] = change / visits[n][tuple(next_obs.tolist())] ** 0.5
                if rollout.terminated[t, n] or rollout.truncated[t, n]:
                    visits[n].clear()
        everything.append(rewards)
    return everything


def test_rewards_equal_the_loops() -> None:
    bonus = RIDE(VECTOR, ACTIONS)
    bonus.learn(walk(40, 1, seed=5))
    rollouts = [walk(30, 3, seed=seed, together=False) for seed in range(3)]
    rollouts[1] = replace(rollouts[1], valid=torch.rand(30, 3) < 0.8)
    for rollout, wanted in zip(rollouts, reference_rewards(bonus, rollouts), strict=True):
        rewards = bonus.score(rollout).double()
        bonus.advance(rollout)
        torch.testing.assert_close(rewards, torch.tensor(wanted).double(), rtol=1e-4, atol=1e-5)


class _Table(nn.Module):
    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(rows))

    def forward(self, observations: Tensor) -> Tensor:
        return self.table[observations.long()]


def path(*states: int, done: tuple[int, ...] = ()) -> Transition:
    obs = torch.tensor(states)[:, None]
    ends = torch.zeros(len(states) - 1, 1, dtype=torch.bool)
    ends[list(done)] = True
    return Transition(obs[:-1], torch.zeros(len(states) - 1, 1).long(), obs[1:], torch.zeros_like(ends), ends)


def by_hand() -> RIDE:
    """Features (0, 0), (3, 4) and (3, 0): the states are 5, 4 and 3 apart."""
    rows = [[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]]
    return RIDE(spaces.Discrete(3), ACTIONS, width=2, encoder=lambda *_: _Table(rows))


def test_values_by_hand() -> None:
    rewards = by_hand().score(path(0, 1, 2, 1, 0, 1, 1))
    expected = [5, 4, 4 / 2**0.5, 5, 5 / 3**0.5, 0]  # visits of 1: 1, 2, 3, 4
    torch.testing.assert_close(rewards.flatten(), torch.tensor(expected))


def test_visits_are_those_of_the_episode_this_one_included() -> None:
    bonus = by_hand()
    rollout = path(0, 1, 0, 1, 0, 1, done=(2,))
    expected = [5, 5, 5 / 2**0.5, 5, 5]
    torch.testing.assert_close(bonus.score(rollout).flatten(), torch.tensor(expected))
    bonus.advance(rollout)
    torch.testing.assert_close(bonus.score(path(0, 1)).item(), 5 / 2**0.5)
    bonus.clear_episodes()
    assert bonus.score(path(0, 1)).item() == 5


def test_both_losses_shape_the_features() -> None:
    """They are those of ICM with the encoder open to the forward error, not of ICM as it comes."""
    rollout = walk(40, 2)
    ours, attached, detached = RIDE(VECTOR, ACTIONS), ICM(VECTOR, ACTIONS, detach=False), ICM(VECTOR, ACTIONS)
    for bonus in (ours, attached, detached):
        bonus.update(rollout)
    features = [b.features(rollout.next_obs.flatten(0, 1)) for b in (ours.icm, attached, detached)]
    torch.testing.assert_close(features[0], features[1], rtol=0, atol=0)
    assert not torch.allclose(features[0], features[2])


def test_the_impact_of_what_no_action_affects_is_smaller() -> None:
    """One feature follows the action, the other one is noise."""
    space = spaces.Box(-1, 1, (2,))
    action = torch.randint(2, (256, 1))
    obs = torch.rand(256, 1, 2) * 0.5 - 0.25
    moved = obs.clone()
    moved[..., 0] += 0.5 * (action - 0.5)
    noisy = obs.clone()
    noisy[..., 1] += 0.5 * (torch.randint(2, (256, 1)) - 0.5)
    ends = torch.ones(256, 1, dtype=torch.bool)  # each row an episode, so that all visits are first ones
    both = moved.clone()
    both[..., 1] = noisy[..., 1]
    bonus = RIDE(space, spaces.Discrete(2), lr=3e-3)
    for _ in range(60):
        bonus.learn(Transition(obs, action, both, ends, ends))
    by_action = bonus.score(Transition(obs, action, moved, ends, ends)).mean()
    by_noise = bonus.score(Transition(obs, action, noisy, ends, ends)).mean()
    assert float(by_action) > 2 * float(by_noise)


def test_bins_and_normalised_observations() -> None:
    space = spaces.Box(0, 1, (1,))
    obs = torch.tensor([0.1, 0.6, 0.12, 0.58])[:, None, None]
    ends = torch.zeros(3, 1, dtype=torch.bool)
    rollout = Transition(obs[:-1], torch.zeros(3, 1).long(), obs[1:], ends, ends)
    fine, coarse = RIDE(space, ACTIONS), RIDE(space, ACTIONS, bins=2)
    ratio = coarse.score(rollout) / fine.score(rollout)
    torch.testing.assert_close(ratio.flatten(), torch.tensor([1, 1, 0.5**0.5]))
    normalised = RIDE(space, ACTIONS, normalize_observations=True)
    assert not bool(normalised.score(rollout).any())
    normalised.update(rollout)
    second = normalised.score(rollout)
    normalised.clear_episodes()
    ratio = second / normalised.score(rollout)
    torch.testing.assert_close(ratio.flatten(), torch.full((3,), 0.5**0.5))  # the first rollout was counted


def test_its_options_reach_the_models() -> None:
    bonus = RIDE(VECTOR, ACTIONS, width=5, hidden=(7,), beta=0.7, lr=0.5, epochs=3, minibatches=2)
    assert bonus.icm.forward_model.body[0].out_features == 7
    assert bonus.icm.features.width == 5
    assert (bonus.icm.beta, bonus.icm.epochs, bonus.icm.n_minibatches) == (0.7, 3, 2)
    assert bonus.icm.optimizer is not None
    assert bonus.icm.optimizer.param_groups[0]["lr"] == 0.5


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="`beta` must lie in"):
        RIDE(VECTOR, ACTIONS, beta=1.0)
    with pytest.raises(ValueError, match="`bins` must be at least 2"):
        RIDE(VECTOR, ACTIONS, bins=1)

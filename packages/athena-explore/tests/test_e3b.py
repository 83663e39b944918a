"""Elliptical bonuses against inverses in float64, by hand, and their resets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from athena_explore import E3B, Transition, elliptical

SPACE, ACTIONS = spaces.Box(-9, 9, (3,)), spaces.Discrete(3)


def start(environments: int, width: int, ridge: float) -> Tensor:
    return (torch.eye(width) * ridge**-0.5).repeat(environments, 1, 1)


def slow(features: Tensor, done: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Bonuses from sums of outer products and their inverses, and the last inverses."""
    steps, environments, width = features.shape
    rewards = torch.zeros(steps, environments, dtype=torch.float64)
    last = torch.zeros(environments, width, width, dtype=torch.float64)
    for n in range(environments):
        covariance = ridge * torch.eye(width, dtype=torch.float64)
        for t in range(steps):
            phi = features[t, n].double()
            rewards[t, n] = phi @ torch.linalg.inv(covariance) @ phi
            covariance = covariance + torch.outer(phi, phi)
            if done[t, n]:
                covariance = ridge * torch.eye(width, dtype=torch.float64)
        last[n] = torch.linalg.inv(covariance)
    return rewards, last


def test_is_the_dense_inverse_after_500_updates() -> None:
    features, done = torch.randn(500, 3, 16), torch.zeros(500, 3, dtype=torch.bool)
    rewards, root = elliptical(features, done, start(3, 16, 0.1), ridge=0.1)
    expected, inverse = slow(features, done, 0.1)
    torch.testing.assert_close(rewards.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((root @ root.mT).double(), inverse, rtol=1e-4, atol=1e-6)


@given(
    steps=st.integers(0, 12),
    environments=st.integers(1, 3),
    width=st.integers(1, 5),
    ridge=st.sampled_from([0.01, 0.1, 2.0]),
    seed=st.integers(0, 99),
)
def test_is_the_dense_inverse_with_episodes(
    steps: int, environments: int, width: int, ridge: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(steps, environments, width, generator=generator)
    done = torch.rand(steps, environments, generator=generator) < 0.2
    rewards, root = elliptical(features, done, start(environments, width, ridge), ridge=ridge)
    expected, inverse = slow(features, done, ridge)
    torch.testing.assert_close(rewards.double(), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close((root @ root.mT).double(), inverse, rtol=1e-3, atol=1e-4)


def test_by_hand() -> None:
    features = torch.tensor([[[3.0, 4]], [[3.0, 4]], [[4.0, -3]], [[0.0, 0]]])
    done = torch.zeros(4, 1, dtype=torch.bool)
    rewards, _ = elliptical(features, done, start(1, 2, 0.1), ridge=0.1)
    expected = torch.tensor([250.0, 25 / 25.1, 250.0, 0.0])  # the third is orthogonal to what was seen
    torch.testing.assert_close(rewards[:, 0], expected, rtol=1e-5, atol=1e-4)


def test_visits_of_one_state_count_down() -> None:
    features, done = torch.full((500, 1, 4), 2.0), torch.zeros(500, 1, dtype=torch.bool)
    rewards, _ = elliptical(features, done, start(1, 4, 0.1), ridge=0.1)
    before = torch.arange(500)
    torch.testing.assert_close(rewards[:, 0], 16 / (0.1 + 16 * before), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_stays_symmetric_and_positive_at_any_scale(scale: float) -> None:
    directions = torch.randn(3, 2, 8)
    features = scale * directions[torch.randint(3, (3000,))] * torch.rand(3000, 2, 1)
    rewards, root = elliptical(
        features, torch.zeros(3000, 2, dtype=torch.bool), start(2, 8, 1e-3), ridge=1e-3
    )
    inverse = root @ root.mT
    torch.testing.assert_close(inverse, inverse.mT, rtol=1e-5, atol=1e-5 * float(inverse.max()))
    assert torch.linalg.eigvalsh(inverse.double()).min() > -1e-6 * inverse.max()
    assert rewards.isfinite().all()
    assert (rewards >= 0).all()
    assert rewards[-1000:].max() < 1.5  # each direction was met often: a bonus of 1 at most, and rounding


def walk(steps: int, environments: int) -> Transition:
    every = torch.randn(steps + 1, environments, 3)
    terminated, truncated = torch.rand(2, steps, environments) < 0.1
    action = torch.randint(3, (steps, environments))
    return Transition(every[:-1], action, every[1:], terminated, truncated)


def test_rewards_are_those_of_inverses_of_its_features() -> None:
    bonus, transition = E3B(SPACE, ACTIONS, width=6, ridge=0.2), walk(40, 2)
    bonus.learn(transition)
    with torch.no_grad():
        phi = bonus.features(transition.next_obs.flatten(0, 1)).view(40, 2, 6)
    expected, inverse = slow(phi, transition.done, 0.2)
    torch.testing.assert_close(bonus.score(transition).double(), expected, rtol=1e-4, atol=1e-4)
    bonus.advance(transition)
    root = bonus.memory["root"]
    torch.testing.assert_close((root @ root.mT).double(), inverse, rtol=1e-4, atol=1e-4)
    assert root.nbytes == 2 * 6 * 6 * 4  # as documented, however long episodes are


def test_memory_starts_anew_after_either_end_and_no_other() -> None:
    obs = torch.ones(4, 2, 3)
    terminated, truncated = torch.zeros(2, 4, 2, dtype=torch.bool)
    terminated[1, 0] = truncated[1, 1] = True
    bonus = E3B(SPACE, ACTIONS)
    rewards = bonus.score(Transition(obs, torch.zeros(4, 2), obs, terminated, truncated))
    assert (rewards[1] < rewards[0]).all()  # the end itself is scored in its episode
    torch.testing.assert_close(rewards[2], rewards[0])
    assert (rewards[3] < rewards[2]).all()


def test_memory_goes_on_between_rollouts_until_cleared() -> None:
    bonus, transition = E3B(SPACE, ACTIONS), walk(10, 2)
    no = torch.zeros(10, 2, dtype=torch.bool)
    transition = replace(transition, terminated=no, truncated=no)
    first = bonus.score(transition)
    bonus.advance(transition)
    assert (bonus.score(transition) < first).all()
    bonus.clear_episodes()
    torch.testing.assert_close(bonus.score(transition), first)


def test_rows_that_are_none_leave_the_ellipse() -> None:
    transition = walk(10, 2)
    valid = torch.ones(10, 2, dtype=torch.bool)
    valid[4, 0] = False
    no = torch.zeros(10, 2, dtype=torch.bool)
    gap = replace(transition, terminated=no, truncated=no, valid=valid)
    short = gap[torch.arange(10) != 4][:, :1]
    bonus = E3B(SPACE, ACTIONS)
    rewards = bonus.score(gap)[:, 0]
    bonus.clear_episodes()
    assert rewards[4] == 0
    torch.testing.assert_close(rewards[torch.arange(10) != 4], bonus.score(short)[:, 0], rtol=1e-4, atol=1e-5)


def test_inverse_model_trains_the_encoder() -> None:
    bonus, transition = E3B(SPACE, ACTIONS, epochs=3, minibatches=2), walk(20, 2)
    moved = replace(transition, next_obs=transition.obs + transition.action[..., None])
    before = bonus.features.encoder.body[0].weight.clone()
    losses = [bonus.update(moved)["inverse_loss"] for _ in range(20)]
    assert losses[-1] < losses[0] / 2
    assert not torch.equal(bonus.features.encoder.body[0].weight, before)
    assert {int(state["step"]) for state in bonus.optimizer.state.values()} == {20 * 3 * 2}


def test_a_given_encoder_is_read_alone() -> None:
    theirs = nn.Linear(3, 8)
    before = theirs.weight.clone()
    bonus = E3B(SPACE, ACTIONS, width=8, encoder=theirs)
    bonus.update(walk(20, 2))
    assert theirs.weight.grad is None
    assert torch.equal(theirs.weight, before)


def test_normalized_observations_wait_for_the_first_rollout() -> None:
    bonus, transition = E3B(SPACE, ACTIONS, normalize_observations=True), walk(20, 2)
    assert not bonus.score(transition).any()
    bonus.update(transition)
    assert bonus.score(transition).all()


def test_a_ridge_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`ridge` must be positive; got 0\.0"):
        E3B(SPACE, ACTIONS, ridge=0.0)

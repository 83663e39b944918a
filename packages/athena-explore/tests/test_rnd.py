"""RND against loops in float64, its identities, and what must stay still."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from athena_explore import RND, ReturnNormalizer
from athena_explore._bonus_laws import ACTIONS, VECTOR, walk


def reference_errors(bonus: RND, observations: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the two networks on normalised observations, one at a time, in float64."""
    target, predictor = copy.deepcopy(bonus.target).double(), copy.deepcopy(bonus.predictor).double()
    mean, deviation = seen.double().mean(0), seen.double().std(0, correction=0)
    errors = []
    for observation in observations.double():
        row = ((observation - mean) / deviation).clamp(-5, 5)[None]
        errors.append((target(row) - predictor(row)).square().mean())
    return torch.stack(errors).detach()


def test_rewards_equal_the_formula_before_and_after_training() -> None:
    bonus = RND(VECTOR, ACTIONS, normalize="none", minibatches=2, epochs=2)
    first = walk(30, 2, seed=1)
    bonus.update(first)
    second = walk(30, 2, seed=2)
    seen = first.next_obs.flatten(0, 1)
    expected = reference_errors(bonus, second.next_obs.flatten(0, 1), seen).view(30, 2)
    torch.testing.assert_close(bonus.score(second).double(), expected, rtol=1e-4, atol=1e-6)


def test_the_first_rollout_scores_zero_and_statistics_start_from_it() -> None:
    bonus, rollout = RND(VECTOR, ACTIONS), walk(30, 2)
    assert not bonus.ready
    assert not bool(bonus.score(rollout).any())
    bonus.update(rollout)
    moments = bonus.observations.moments[0]
    torch.testing.assert_close(moments.mean, rollout.next_obs.flatten(0, 1).mean(0))
    assert bonus.normalizer is not None
    assert int(bonus.normalizer.moments.count) == 0, "rewards of 0 without statistics entered the scale"
    assert bool(bonus.score(rollout).all())


def test_statistics_can_come_from_elsewhere() -> None:
    bonus = RND(VECTOR, ACTIONS)
    bonus.learn(walk(50, 1, seed=9))  # of another environment, or of random actions
    assert bool(bonus.score(walk(30, 2)).all())


def test_scored_and_trained_states_are_the_same_ends_included() -> None:
    """The novelty of a terminal state falls: s' is trained on, not s."""
    ends = torch.ones(16, 1, dtype=torch.bool)
    start, end = torch.zeros(16, 1, 3), torch.ones(16, 1, 3)
    rollout = replace(walk(16, 1), obs=start, next_obs=end, terminated=ends, truncated=~ends)
    bonus = RND(VECTOR, ACTIONS, normalize="none", lr=1e-2)
    bonus.learn(walk(64, 1, seed=3))
    before = float(bonus.score(rollout).mean())
    for _ in range(30):
        bonus.learn(rollout)
    assert float(bonus.score(rollout).mean()) < before / 10


def test_the_target_is_still_saved_and_left_out_of_training() -> None:
    bonus, rollout = RND(VECTOR, ACTIONS), walk(30, 2)
    before = copy.deepcopy(bonus.target.state_dict())
    for _ in range(3):
        bonus.update(rollout)
    for name, value in bonus.target.state_dict().items():
        assert torch.equal(value, before[name])
        assert f"target.{name}" in bonus.state_dict()
    assert bonus.optimizer is not None
    trained = {id(p) for group in bonus.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in bonus.predictor.parameters()}


def test_the_scale_is_that_of_the_discounted_return() -> None:
    plain, scaled = RND(VECTOR, ACTIONS, normalize="none"), RND(VECTOR, ACTIONS, gamma=0.9)
    reference = ReturnNormalizer(gamma=0.9)
    for seed in range(4):
        rollout = walk(20, 3, seed=seed)
        raw = plain.score(rollout)
        if plain.ready:
            expected, after = reference(raw, rollout.valid)
            reference.commit(after)
            torch.testing.assert_close(scaled.score(rollout), expected)
        plain.update(rollout)
        scaled.update(rollout)


def test_only_a_share_of_samples_trains() -> None:
    torch.manual_seed(0)
    errors = torch.arange(1.0, 1001.0)
    bonus = RND(VECTOR, ACTIONS, update_proportion=0.25)
    generator = copy.deepcopy(bonus.generator.get_state())
    mean = bonus._masked_mean(errors)
    bonus.generator.set_state(generator)
    mask = torch.rand(1000, generator=bonus.generator) < 0.25
    assert 200 < int(mask.sum()) < 300
    torch.testing.assert_close(mean, errors[mask].mean())
    bonus.update_proportion = 1e-9  # none is drawn: the loss is 0, not 0/0
    assert float(bonus._masked_mean(errors)) == 0
    before = copy.deepcopy(bonus.predictor.state_dict())
    bonus.learn(walk(30, 2))
    torch.testing.assert_close(bonus.predictor.state_dict(), before, rtol=0, atol=0)


def test_your_own_network_is_made_twice() -> None:
    made = []

    def encoder(space: spaces.Space, width: int) -> torch.nn.Module:
        made.append(torch.nn.Linear(3, width))
        return made[-1]

    bonus = RND(VECTOR, ACTIONS, encoder=encoder, width=7)
    assert [bonus.target, bonus.predictor] == made
    assert not torch.equal(made[0].weight, made[1].weight)
    assert not made[0].weight.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update_proportion": 0.0}, r"`update_proportion` must lie in \(0, 1\]; got 0"),
        ({"update_proportion": 1.5}, r"`update_proportion` must lie in \(0, 1\]; got 1.5"),
        ({"lr": -1.0}, "`lr` must be a positive number; got -1"),
        ({"epochs": 0}, "`epochs` must be at least 1; got 0"),
        ({"minibatches": 0}, "`minibatches` must be at least 1; got 0"),
    ],
)
def test_options_outside_their_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RND(VECTOR, ACTIONS, **options)


def test_float64_and_constant_observations_are_taken() -> None:
    space = spaces.Box(-1, 1, (3,), np.float64)
    bonus, rollout = RND(space, ACTIONS), walk(8, 2)
    still = replace(rollout, obs=rollout.obs.double() * 0, next_obs=rollout.next_obs.double() * 0)
    bonus.update(still)
    assert bool(bonus.score(still).isfinite().all())

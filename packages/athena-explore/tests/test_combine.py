"""Sums, products and gates of bonuses: their parts alone, and their laws."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from athena_core import Component
from athena_core.testing import Check
from athena_explore import E3B, ICM, NGU, RIDE, RND, Bonus, Gated, Modulated, Product, Scored, Sum, Transition
from athena_explore._bonus_laws import ACTIONS, VECTOR, bonus_checks, walk

plain_rnd = partial(RND, normalize="none")
TARGETS: dict[str, Callable[..., Bonus]] = {
    "sum": partial(Sum, parts=[plain_rnd, ICM], weights=[1, 2]),
    "sum of episodic ones": partial(Sum, parts=[RIDE, plain_rnd], normalize="return"),
    "product": partial(Product, parts=[E3B, plain_rnd], weights=[0.5, 1]),
    "gated": partial(Gated, bonus=RIDE, by=plain_rnd, threshold=0.1),
    "modulated": partial(Modulated, bonus=NGU, by=plain_rnd),
    "sum of a product": partial(Sum, parts=[partial(Product, parts=[E3B, plain_rnd]), ICM]),
}


def _laws() -> list[Any]:
    laws = []
    for name, target in TARGETS.items():
        component = Component("bonus", name.replace(" ", "-"), "athena_explore:Sum", name, "")
        laws += [pytest.param(check, id=f"{name}: {check.name}") for check in bonus_checks(component, target)]
    return laws


@pytest.mark.parametrize("check", _laws())
def test_laws(check: Check) -> None:
    check()


class Given(Bonus):
    """Its rewards are a column of the next observations."""

    def __init__(self, observation_space: Any, action_space: Any, *, column: int = 0, seed: int = 0) -> None:
        super().__init__(observation_space, action_space, seed=seed)
        self.column = column

    def _score(self, transition: Transition) -> Scored:
        return Scored(transition.next_obs[..., self.column])


def given_rewards(*rows: list[float]) -> Transition:
    """One environment; each row holds what each part rewards."""
    next_obs = torch.tensor([[*row, *[0.0] * (3 - len(row))] for row in rows])[:, None]
    ends = torch.zeros(len(rows), 1, dtype=torch.bool)
    return Transition(torch.zeros_like(next_obs), torch.zeros(len(rows), 1).long(), next_obs, ends, ends)


ONE, OTHER = partial(Given, column=0), partial(Given, column=1)


def rewards_of(bonus: Bonus, *rows: list[float]) -> list[float]:
    return bonus.score(given_rewards(*rows)).flatten().tolist()


def test_values_by_hand() -> None:
    rows = [2.0, 4.0], [3.0, 0.0], [0.0, 1.0], [1.0, 0.5]
    parts = [ONE, OTHER]
    assert rewards_of(Sum(VECTOR, ACTIONS, parts=parts), *rows) == [6, 3, 1, 1.5]
    assert rewards_of(Sum(VECTOR, ACTIONS, parts=parts, weights=[2, 0.5]), *rows) == [6, 6, 0.5, 2.25]
    assert rewards_of(Product(VECTOR, ACTIONS, parts=parts), *rows) == [8, 0, 0, 0.5]
    assert rewards_of(Product(VECTOR, ACTIONS, parts=parts, weights=[2, 0.5]), *rows)[0] == 8
    assert rewards_of(Gated(VECTOR, ACTIONS, bonus=ONE, by=OTHER), *rows) == [2, 0, 0, 1]
    assert rewards_of(Gated(VECTOR, ACTIONS, bonus=ONE, by=OTHER, threshold=0.5), *rows) == [2, 0, 0, 0]
    assert rewards_of(Modulated(VECTOR, ACTIONS, bonus=ONE, by=OTHER), *rows) == [8, 3, 0, 1]
    assert rewards_of(Modulated(VECTOR, ACTIONS, bonus=ONE, by=OTHER, low=0, high=2), *rows) == [4, 0, 0, 0.5]


def test_a_weight_of_zero_leaves_a_part_out() -> None:
    for combination in (Sum, Product):
        assert rewards_of(combination(VECTOR, ACTIONS, parts=[ONE, OTHER], weights=[1, 0]), [3.0, 0.0]) == [3]


def test_elliptical_times_random_network_is_each_alone() -> None:
    """E3B times RND, over rollouts that train both."""
    e3b, rnd = E3B(VECTOR, ACTIONS, seed=1), RND(VECTOR, ACTIONS, seed=2, normalize="none")
    product = Product(VECTOR, ACTIONS, parts=[copy.deepcopy(e3b), copy.deepcopy(rnd)])
    for seed in range(4):
        rollout = walk(20, 3, seed=seed)
        expected = e3b.score(rollout).double() * rnd.score(rollout).double()
        torch.testing.assert_close(product.score(rollout).double(), expected, rtol=1e-5, atol=1e-9)
        metrics = {f"{name}_0": value for name, value in e3b.update(rollout).items()}
        metrics |= {f"{name}_1": value for name, value in rnd.update(rollout).items()}
        assert product.update(rollout) == metrics
    assert bool(product.score(walk(20, 3, seed=9)).any())


def test_parts_keep_their_own_scale() -> None:
    """Dividing one part by the deviation of its return is the part's affair, and the sum's its own."""
    rollouts = [walk(20, 2, seed=seed) for seed in range(3)]
    rnd = RND(VECTOR, ACTIONS, seed=1, normalize="return")
    both = Sum(VECTOR, ACTIONS, parts=[copy.deepcopy(rnd), ONE], normalize="none")
    scaled = Sum(VECTOR, ACTIONS, parts=[copy.deepcopy(rnd), ONE], normalize="return", gamma=0)
    for rollout in rollouts:
        raw = rnd.score(rollout) + rollout.next_obs[..., 0]
        torch.testing.assert_close(both.score(rollout), raw)
        for bonus in (rnd, both, scaled):
            bonus.update(rollout)
    assert scaled.normalizer is not None
    raw = both.score(rollouts[0])
    deviation = scaled.normalizer.moments.variance.sqrt()
    torch.testing.assert_close(scaled.normalizer.scale(raw), raw / deviation)


def test_not_ready_counts_as_zero_in_a_sum_and_closes_the_others() -> None:
    rollout = walk(6, 2)
    one = rollout.next_obs[..., 0]
    assert torch.equal(Sum(VECTOR, ACTIONS, parts=[RND, ONE]).score(rollout), one)
    for bonus in (
        Product(VECTOR, ACTIONS, parts=[RND, ONE], weights=[0, 1]),
        Gated(VECTOR, ACTIONS, bonus=ONE, by=RND, threshold=-1),
        Modulated(VECTOR, ACTIONS, bonus=ONE, by=RND),
    ):
        assert not bonus.ready
        assert not bool(bonus.score(rollout).any())
        bonus.update(rollout)
        assert bonus.ready


def test_parts_made_here_differ_and_follow_the_seed() -> None:
    def weights(bonus: Sum) -> list[Tensor]:
        return [next(part.predictor.parameters()) for part in bonus.parts]

    one, other = weights(Sum(VECTOR, ACTIONS, parts=[RND, RND]))
    assert not torch.equal(one, other)
    assert torch.equal(one, weights(Sum(VECTOR, ACTIONS, parts=[RND, RND]))[0])
    assert not torch.equal(one, weights(Sum(VECTOR, ACTIONS, parts=[RND, RND], seed=1))[0])


def test_samples_without_order_are_scored_where_all_parts_can() -> None:
    bonus = Product(VECTOR, ACTIONS, parts=[plain_rnd, ICM])
    rollout = walk(20, 2)
    bonus.update(rollout)
    torch.testing.assert_close(bonus.score_samples(rollout.flat()), bonus.score(rollout).flatten())
    with pytest.raises(ValueError, match="Product depends on what else the episode held"):
        Product(VECTOR, ACTIONS, parts=[E3B, RND]).score_samples(rollout.flat())


def test_parts_may_be_named() -> None:
    named, classes = (Sum(VECTOR, ACTIONS, parts=parts) for parts in (["rnd", "e3b"], [RND, E3B]))
    for seed in range(2):
        rollout = walk(12, 2, seed=seed)
        assert torch.equal(named.score(rollout), classes.score(rollout))
        assert named.update(rollout) == classes.update(rollout)


def test_bad_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="`parts` must hold at least one bonus"):
        Sum(VECTOR, ACTIONS, parts=[])
    rnd = RND(VECTOR, ACTIONS)
    with pytest.raises(ValueError, match="`parts` must be different bonuses"):
        Sum(VECTOR, ACTIONS, parts=[rnd, rnd])
    with pytest.raises(ValueError, match=r"`parts\[1\]` must be of the spaces .* got .*Discrete\(4\)"):
        Sum(VECTOR, ACTIONS, parts=[RND, RND(VECTOR, spaces.Discrete(4))])
    with pytest.raises(ValueError, match="`weights` must hold one for each of 2 parts; got 1"):
        Sum(VECTOR, ACTIONS, parts=[RND, RND], weights=[1])
    for weight in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`weights` must be finite and at least 0"):
            Product(VECTOR, ACTIONS, parts=[RND, RND], weights=[1, weight])
    with pytest.raises(ValueError, match="`threshold` must be a number; got nan"):
        Gated(VECTOR, ACTIONS, bonus=RND, by=RND, threshold=float("nan"))
    for low, high in ((-1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)):
        with pytest.raises(ValueError, match="`low` and `high` must be finite"):
            Modulated(VECTOR, ACTIONS, bonus=RND, by=RND, low=low, high=high)

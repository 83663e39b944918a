"""Pseudo-counts beside the plain formula in exact fractions, and the identities of the paper."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from athena_explore import PseudoCounts, Symbols, Transition
from athena_explore._bonus_laws import walk
from athena_explore._pseudo_counts import pseudo_count

ACTIONS = spaces.Discrete(3)
PARTS = spaces.MultiDiscrete([2, 5, 3])


class Plain:
    """The density of whole states, learned one state after the other, in fractions."""

    def __init__(self, sizes: list[int], alpha: Fraction) -> None:
        self.sizes, self.alpha = sizes, alpha
        self.seen: list[list[int]] = []

    def density(self, state: list[int]) -> Fraction:
        product = Fraction(1)
        for f, size in enumerate(self.sizes):
            count = sum(other[f] == state[f] for other in self.seen)
            product *= (count + self.alpha) / (len(self.seen) + self.alpha * size)
        return product

    def __call__(self, state: list[int]) -> float:
        before = self.density(state)
        self.seen.append(state)
        after = self.density(state)
        count = before * (1 - after) / (after - before)
        return float(count + Fraction(1, 100)) ** -0.5


def arriving(states: Tensor) -> Transition:
    """At states ``(T, N, ...)``."""
    ends = torch.zeros(states.shape[:2], dtype=torch.bool)
    return Transition(states, torch.zeros(states.shape[:2]), states, ends, ends)


@pytest.mark.parametrize("alpha", [0.5, 0.125])
def test_rewards_are_those_of_the_plain_formula(alpha: float):
    bonus, plain = PseudoCounts(PARTS, ACTIONS, alpha=alpha), Plain([2, 5, 3], Fraction(alpha))
    for steps in (1, 12, 0, 7):
        states = torch.stack([torch.randint(size, (steps, 2)) for size in (2, 5, 3)], 2)
        rollout = arriving(states)
        expected = torch.tensor([[plain(state) for state in row] for row in states.tolist()]).view(steps, 2)
        torch.testing.assert_close(bonus.score(rollout), expected, rtol=2e-5, atol=0)
        bonus.update(rollout)


def test_of_a_single_part_it_is_the_count():
    """Bellemare et al. 2016: with the empirical distribution the pseudo-count is the count."""
    bonus = PseudoCounts(spaces.Discrete(1000), ACTIONS, alpha=1e-3)
    visited = torch.randint(4, (200, 1))
    rewards = bonus.score(arriving(visited)).flatten()
    counts = rewards**-2 - 0.01 - 1e-3
    expected = [int((visited[:t] == visited[t]).sum()) for t in range(200)]
    torch.testing.assert_close(counts, torch.tensor(expected).float(), rtol=1e-3, atol=1e-4)


def test_worked_values_of_two_coins():
    """Both heads, twice: 1/4, then 9/16 of two coins; 1/4 (1 - 9/16) / (9/16 - 1/4) = 7/20."""
    bonus = PseudoCounts(spaces.MultiBinary(2), ACTIONS)
    first, second, other = (
        bonus.score(arriving(torch.tensor([[[1, 1]], [[1, 1]], [[0, 1]]]))).flatten().tolist()
    )
    assert first == pytest.approx((7 / 20 + 0.01) ** -0.5)
    # 9/16, then 25/36
    assert second == pytest.approx((9 / 16 * (11 / 36) / (25 / 36 - 9 / 16) + 0.01) ** -0.5)
    # 1/6 of tails, 5/6 of heads, then 3/8 and 7/8
    assert other == pytest.approx((5 / 36 * (1 - 21 / 64) / (21 / 64 - 5 / 36) + 0.01) ** -0.5)


def test_states_that_share_parts_with_known_ones_are_partly_known():
    bonus = PseudoCounts(PARTS, ACTIONS)
    bonus.update(arriving(torch.tensor([[0, 0, 0]]).expand(50, 1, 3)))
    samples = arriving(torch.tensor([[[0, 0, 0], [0, 0, 1], [1, 4, 2]]])).flat()
    known, partly, new = bonus.score_samples(samples).tolist()
    assert known < partly < new <= 10  # 0.01 ** -0.5


def test_samples_are_scored_by_what_was_seen_and_change_nothing():
    bonus = PseudoCounts(PARTS, ACTIONS)
    state = torch.tensor([[[1, 2, 0]]])
    samples = arriving(state.expand(1, 4, 3)).flat()
    before = bonus.score_samples(samples)
    assert len(before.unique()) == 1
    assert before[0] == bonus.score(arriving(state)).item()
    bonus.update(arriving(state))
    assert bonus.score_samples(samples)[0] < before[0]
    assert int(bonus.total) == 1


def test_nothing_cancels_after_many_visits():
    many = torch.tensor([10**7])
    sizes = torch.tensor([8] * 1764)
    always, never = torch.full((1, 1764), 10**7), torch.zeros(1, 1764, dtype=torch.int64)
    count = pseudo_count(always, many, sizes, alpha=0.5).item()
    assert count == pytest.approx(10**7, rel=1e-3)  # seen always: as often as anything was
    assert pseudo_count(never, many, sizes, alpha=0.5).item() == 0
    assert pseudo_count(never[:, :1], many, sizes[:1], alpha=0.5).item() == pytest.approx(0.5, rel=1e-5)


def test_where_there_is_one_state_all_visits_are_its_own():
    bonus = PseudoCounts(spaces.Discrete(1), ACTIONS)
    rewards = bonus.score(arriving(torch.zeros(3, 1, dtype=torch.int64)))
    assert rewards.flatten().tolist() == pytest.approx([0.01**-0.5, 1.01**-0.5, 2.01**-0.5])


def test_rows_that_are_not_valid_are_not_seen():
    rollout = walk(10, 2)
    space = spaces.Box(-4, 4, (3,), np.float32)
    bonus = PseudoCounts(space, ACTIONS)
    valid = torch.arange(20).view(10, 2) % 3 > 0
    bonus.update(
        Transition(
            rollout.obs, rollout.action, rollout.next_obs, rollout.terminated, rollout.truncated, valid
        )
    )
    assert int(bonus.total) == int(valid.sum())
    assert int(bonus.counts.sum()) == 3 * int(valid.sum())


def test_symbols_of_every_space():
    space = spaces.Tuple(
        [
            spaces.Discrete(3, start=5),
            spaces.MultiDiscrete([2, 3], start=[1, -1]),
            spaces.MultiBinary(2),
            spaces.Box(-1, 1, (2,)),
            spaces.Box(-2, 3, (1,), np.int64),
            spaces.Box(-(10**6), 10**6, (1,), np.int64),
            spaces.Box(-np.inf, np.inf, (1,)),
        ]
    )
    symbols = Symbols(space, bins=4)
    assert symbols.sizes.tolist() == [3, 2, 3, 2, 2, 4, 4, 6, 4, 4]
    rows = symbols(
        (
            torch.tensor([7]),
            torch.tensor([[2, -1]]),
            torch.tensor([[0, 1]], dtype=torch.int8),
            torch.tensor([[-1.0, 0.3]]),
            torch.tensor([[3]]),
            torch.tensor([[10**6]]),
            torch.tensor([[-9.0]]),
        )
    )
    assert rows.tolist() == [[2, 1, 0, 0, 1, 0, 2, 5, 3, 0]]


@pytest.mark.parametrize("shape", [(84, 84, 4), (4, 84, 84), (210, 160, 3)])
def test_large_images_become_42_by_42_grey_pixels_of_8_levels(shape: tuple[int, ...]):
    symbols = Symbols(spaces.Box(0, 255, shape, "uint8"), bins=4)
    images = torch.zeros(3, *shape, dtype=torch.uint8)
    images[1] = 255
    images[2] = 100
    rows = symbols(images)
    assert rows.shape == (3, 42 * 42)
    assert [row.unique().tolist() for row in rows] == [[0], [7], [3]]
    assert symbols.sizes.unique().tolist() == [8]


def test_halves_of_an_image_stay_halves():
    image = torch.zeros(1, 84, 84, 1, dtype=torch.uint8)
    image[:, :, 42:] = 255
    rows = Symbols(spaces.Box(0, 255, (84, 84, 1), "uint8"), bins=4)(image).view(42, 42)
    assert rows[:, :21].max() == 0
    assert rows[:, 21:].min() == 7


def test_small_images_keep_every_value():
    symbols = Symbols(spaces.Box(0, 255, (7, 7, 3), "uint8"), bins=4)
    image = torch.randint(0, 256, (1, 7, 7, 3), dtype=torch.uint8)
    assert torch.equal(symbols(image), image.long().flatten(1))
    assert symbols.sizes.unique().tolist() == [256]


def test_memory_is_that_of_every_value_of_a_part():
    bonus = PseudoCounts(spaces.Box(0, 255, (84, 84, 4), "uint8"), ACTIONS)
    assert 8 * bonus.counts.numel() == 42 * 42 * 8 * 8 == 112_896


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 0.0}, "`alpha` must be a positive number; got 0.0"),
        ({"bins": 1}, "`bins` must be at least 2; got 1"),
    ],
)
def test_refuses_bad_options(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        PseudoCounts(PARTS, ACTIONS, **options)


def test_integers_outside_of_their_range_are_outermost():
    symbols = Symbols(spaces.Box(-1, 2, (2,), np.int64), bins=4)
    assert symbols(torch.tensor([[-9, 9], [-1, 2], [0, 1]])).tolist() == [[0, 3], [0, 3], [1, 2]]

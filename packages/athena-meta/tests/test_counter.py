"""Random numbers by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena_meta import _counter as counter

M64 = (1 << 64) - 1


def splitmix(state: int, count: int) -> list[int]:
    """SplitMix64 as its authors write it, a word after the other, in whole numbers."""
    words = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & M64
        word = state
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & M64
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & M64
        words.append(word ^ (word >> 31))
    return words


def chi_square(counts: np.ndarray) -> float:
    """How many standard deviations the statistic lies above its mean, for equal probabilities."""
    expected = counts.sum() / counts.size
    degrees = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - degrees) / math.sqrt(2 * degrees)


@given(st.integers(0, M64), st.integers(0, 9))
def test_words_are_splitmix(key: int, count: int) -> None:
    assert counter.words(np.array([key], np.uint64), count)[0].tolist() == splitmix(key, count)


def test_golden_words() -> None:
    # The seed 1234567 of Rosetta Code, "Pseudo-random numbers/Splitmix64".
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert counter.words(np.array([1234567], np.uint64), 3)[0].tolist() == expected


@pytest.mark.parametrize("seed", [0, 1, -1, 2**64 - 1, 2**70])
def test_keys_differ(seed: int) -> None:
    keys = counter.episode_keys(seed, 0, 1000)
    children = np.concatenate([counter.keys(keys, child) for child in range(10)])
    assert len(np.unique(children)) == 10_000
    assert np.array_equal(counter.episode_keys(seed, 993, 7), keys[993:])


def test_uniform_and_normal_have_their_moments() -> None:
    keys = counter.episode_keys(0, 0, 20_000)
    uniform, normal = counter.uniform(keys, 4), counter.normal(keys, 4)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    n = uniform.size
    assert abs(uniform.mean() - 0.5) < 5 / math.sqrt(12 * n)
    assert abs(uniform.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / n)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((normal**power).mean() - moment) < 5 * math.sqrt(variance / n)
    assert np.isfinite(normal).all()
    correlation = np.corrcoef(np.concatenate([uniform, normal], axis=1).T)
    assert np.abs(correlation - np.eye(8)).max() < 5 / math.sqrt(20_000)


@given(st.integers(0, M64), st.lists(st.integers(3, 40), min_size=1, max_size=5), st.integers(0, 3))
def test_numbers_drawn_are_different_and_in_range(key: int, sizes: list[int], count: int) -> None:
    keys, limits = counter.episode_keys(key, 0, len(sizes)), np.array(sizes)
    drawn = counter.draw(keys, limits, count, smallest=min(sizes), largest=max(sizes))
    assert drawn.shape == (len(sizes), count)
    for row, size in zip(drawn.tolist(), sizes, strict=True):
        assert len(set(row)) == count
        assert all(0 <= number < size for number in row)


@pytest.mark.parametrize(("size", "count"), [(5, 5), (6, 2), (20, 3), (9, 3), (4, 2), (1, 1), (40, 2)])
def test_every_ordered_choice_is_as_likely(size: int, count: int) -> None:
    choices = math.perm(size, count)
    tries = 30 * choices
    keys = counter.episode_keys(5, 0, tries)
    drawn = counter.draw(keys, np.full(tries, size), count, smallest=size, largest=size)
    _, counts = np.unique(drawn @ size ** np.arange(count), return_counts=True)
    assert len(counts) == choices
    assert choices == 1 or abs(chi_square(counts)) < 4


def test_unequal_sizes_are_each_uniform() -> None:
    sizes = np.tile([3, 7, 12], 4000)
    drawn = counter.draw(counter.episode_keys(6, 0, 12_000), sizes, 3, smallest=3, largest=12)
    for size in (3, 7, 12):
        counts = np.bincount(drawn[sizes == size][:, 0], minlength=size)
        assert len(counts) == size
        assert abs(chi_square(counts)) < 4


def test_rejection_draws_again_only_where_numbers_meet() -> None:
    keys = counter.episode_keys(7, 0, 500)
    sizes = np.full(500, 16)
    drawn = counter.draw(keys, sizes, 4, smallest=16, largest=16)
    first = counter.words(counter.keys(keys, 0), 4) % np.uint64(16)
    kept = np.array([len(set(row)) == 4 for row in first.tolist()])
    assert 0.5 < kept.mean() < 0.8  # 16 * 15 * 14 * 13 / 16^4 is 0.667
    assert np.array_equal(drawn[kept], first[kept])

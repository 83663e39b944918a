"""Random numbers by number: the i-th of a key is a hash of both, so that any can be had alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # odd, nearest to 2^64 divided by the golden ratio


def mixed(words: Words) -> Words:
    """The finaliser of SplitMix64: a bijection of 64 bits; each input bit moves half of the output."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def keys(parent: Words, child: int | NDArray[np.integer]) -> Words:
    """The key of a numbered child of each key; the arguments broadcast."""
    numbers = np.atleast_1d(np.asarray(child, dtype=np.uint64))  # arrays wrap around, scalars warn
    return mixed(parent + mixed((numbers + np.uint64(1)) * GOLDEN))


def words(key: Words, count: int) -> Words:
    r"""The first words of each key: SplitMix64 started at it. ``(...) -> (..., count)``.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figure 17. Departs from
    it: no.
    """
    return mixed(key[..., None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN)


def uniform(key: Words, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) with 53 random bits, ``(...) -> (..., count)``."""
    return np.ldexp((words(key, count) >> np.uint64(11)).astype(np.float64), -53)


def normal(key: Words, count: int) -> NDArray[np.float64]:
    r"""Standard normal numbers, :math:`\sqrt{-2\ln(1-u_1)}\cos 2\pi u_2`, ``(...) -> (..., count)``.

    Source: Box, Muller 1958. Departs from it: the sine's half is not used, so that number i is of pair i.
    """
    pairs = uniform(key, 2 * count)
    return np.sqrt(-2 * np.log1p(-pairs[..., ::2])) * np.cos(2 * np.pi * pairs[..., 1::2])


def episode_keys(seed: int, first: int, count: int) -> Words:
    """The key of each of the episodes from ``first`` on, ``(count,)``. Raises ValueError beyond 2**64."""
    if first + count > 1 << 64:
        raise ValueError(
            f"`first` and all that follow must be below 2**64; got {first}. Change the seed instead."
        )
    root = mixed(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
    return keys(root, np.arange(first, first + count, dtype=np.uint64))


def draw(
    key: Words, sizes: NDArray[np.int64], count: int, *, smallest: int, largest: int
) -> NDArray[np.int64]:
    r"""``count`` different numbers of each :math:`0 \ldots size-1`, every ordered choice equally likely.

    Where sizes are small, by ranking: the places of the ``count`` smallest of ``size`` random words. Where
    all are at least :math:`count^2`, by rejection: numbers drawn with replacement are different with a
    probability near 0.6 or above, and are drawn again until they are.

    ``smallest`` and ``largest`` are those of all sizes there are, not of these rows, so that the way, and
    with it the result, is the same alone and in a batch.

    Shape: ``key (n,)``, ``sizes (n,)`` -> ``(n, count)``.
    """
    if smallest >= count * count:
        return _by_rejection(key, sizes, count)
    return _by_rank(key, sizes, count, largest)


def _by_rank(key: Words, sizes: NDArray[np.int64], count: int, largest: int) -> NDArray[np.int64]:
    # The place stands in the low bits of the word, so that sorting words sorts places; the 40 and more bits
    # above it are random.
    low = np.uint64((1 << int(largest).bit_length()) - 1)
    places = np.arange(largest, dtype=np.uint64)
    ranked = (words(key, largest) & ~low) | places
    ranked[places >= sizes.astype(np.uint64)[:, None]] = np.iinfo(np.uint64).max
    if largest > 4 * count:
        ranked = np.partition(ranked, count - 1, axis=1)[:, :count]
    ranked.sort(axis=1)
    return (ranked[:, :count] & low).astype(np.int64)


def _by_rejection(key: Words, sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    drawn = np.empty((len(key), count), dtype=np.int64)
    rows = np.arange(len(key))
    attempt = 0
    while len(rows):
        fresh = words(keys(key[rows], attempt), count) % sizes[rows, None].astype(np.uint64)
        drawn[rows] = fresh
        fresh.sort(axis=1)
        rows = rows[(fresh[:, 1:] == fresh[:, :-1]).any(axis=1)]
        attempt += 1
    return drawn

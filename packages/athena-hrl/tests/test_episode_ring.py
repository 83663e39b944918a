"""The ring of episodes against plain lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena_hrl import EpisodeRing


@given(
    capacity=st.integers(4, 9),
    n_envs=st.integers(1, 3),
    steps=st.integers(0, 40),
    pauses=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 20),
)
def test_it_keeps_whole_finished_episodes(
    capacity: int, n_envs: int, steps: int, pauses: float, seed: int
) -> None:
    ring, rng = EpisodeRing(capacity, n_envs), np.random.default_rng(seed)
    held: list[dict[int, int]] = [{} for _ in range(n_envs)]  # by row, the step in it
    episodes: list[list[tuple[int, int]]] = [[] for _ in range(n_envs)]
    starts, counts = [0] * n_envs, [0] * n_envs
    for _ in range(steps):
        valid = rng.random(n_envs) >= pauses
        done = np.array([rng.random() < 0.4 or counts[e] - starts[e] == 3 for e in range(n_envs)])
        rows = ring.advance(done if done.any() else None, None if pauses == 0 else valid)
        at = iter(np.arange(capacity * n_envs)[rows].tolist())
        for env in np.flatnonzero(valid).tolist():
            held[env][next(at)] = counts[env]
            counts[env] += 1
            if done[env]:
                episodes[env].append((starts[env], counts[env]))
                starts[env] = counts[env]
    expected = set()
    for env in range(n_envs):
        kept = set(held[env].values())
        assert len(held[env]) == min(counts[env], capacity)
        for start, end in episodes[env]:
            if set(range(start, end)) <= kept:
                expected |= {(env, step, start, end) for step in range(start, end)}
    assert len(ring) == len(expected)
    np.testing.assert_array_equal(ring.written, counts)
    if expected:
        drawn, row = ring.draw(40 * len(expected), np.random.default_rng(0))
        assert set(zip(*(part.tolist() for part in drawn[:4]), strict=True)) == expected
        assert all(held[env][at] == step for env, step, at in zip(drawn.env, drawn.step, row, strict=True))


def test_each_step_is_as_likely() -> None:
    ring = EpisodeRing(10, 2)
    for t in range(10):
        ring.advance(np.array([t == 9, t in (1, 4)]))
    drawn, row = ring.draw(60_000, np.random.default_rng(0))
    share = np.bincount(row, minlength=20) / 60_000
    np.testing.assert_allclose(share[share > 0], np.full(15, 1 / 15), atol=0.005)  # 5 standard errors
    assert drawn.end[drawn.env == 0].tolist() == [10] * int((drawn.env == 0).sum())


def test_a_state_of_another_size_raises() -> None:
    with pytest.raises(ValueError, match="`state` must be of 5 steps of 2 environments; got bounds"):
        EpisodeRing(5, 2).load_state_dict(EpisodeRing(6, 2).state_dict())


def test_nobody_has_a_step() -> None:
    ring = EpisodeRing(5, 2)
    rows = ring.advance(None, np.zeros(2, bool))
    assert isinstance(rows, np.ndarray)
    assert rows.size == 0
    assert ring.written.tolist() == [0, 0]

"""Cells and the ways between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena_hrl._grid import MOVES, distances, free_cells, neighbours, way_to


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32))
def test_ways_are_shortest(height: int, width: int, seed: int) -> None:
    """Against the matrix of neighbours, raised to powers."""
    free = np.zeros((height + 2, width + 2), dtype=np.bool_)
    free[1:-1, 1:-1] = np.random.default_rng(seed).random((height, width)) < 0.7
    free[1, 1] = True
    cells, to = np.argwhere(free), neighbours(free)
    beside = (np.abs(cells[:, None] - cells).sum(2) == 1).astype(int)
    for state, (row, column) in enumerate(cells):
        for move, (down, right) in enumerate(MOVES):
            there = row + down, column + right
            expected = (cells == there).all(1).argmax() if free[there] else state
            assert to[state, move] == expected
    reached = np.full(len(cells), -1)
    power = np.eye(len(cells), dtype=int)
    for steps in range(len(cells) + 1):
        reached[(power[:, 0] > 0) & (reached < 0)] = steps
        power = np.minimum(power @ (beside + np.eye(len(cells), dtype=int)), 1)
    found, way = distances(to, 0), way_to(to, 0)
    np.testing.assert_array_equal(found, reached)
    np.testing.assert_array_equal(way < 0, found < 0)
    for state in np.flatnonzero(found > 0):
        assert found[to[state, way[state]]] == found[state] - 1


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ([], r"lines of one length; got \[\]"),
        (["###", "####"], r"lines of one length; got \[3, 4\]"),
        (["###", "#.#", "###"], r"made of '#', ' '; got \['.'\]"),
        (["###", "## ", "###"], "walls '#' all around"),
        (["###", "###", "###"], "must have a free cell; got walls alone"),
    ],
)
def test_wrong_layouts_are_refused(layout: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        free_cells(layout)

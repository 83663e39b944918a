"""Generators of subgoals: bounds, sparse places, and betweenness against an enumeration of paths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from athena_hrl import achieved_subgoals, betweenness, bottlenecks, uniform_subgoals


def enumerated(n_states: int, edges: list[tuple[int, int]]) -> np.ndarray:
    """Betweenness by listing all shortest paths between all pairs."""
    follow = {state: {there for here, there in edges if here == state != there} for state in range(n_states)}
    scores = np.zeros(n_states)
    for start, end in itertools.permutations(range(n_states), 2):
        paths = [[start]]
        for _ in range(n_states):
            found = [one for one in paths if one[-1] == end]
            if found:
                for state in range(n_states):
                    scores[state] += sum(state in one[1:-1] for one in found) / len(found)
                break
            paths = [[*one, there] for one in paths for there in follow[one[-1]] if there not in one]
    return scores


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=14))
def test_betweenness_is_that_of_all_shortest_paths(edges):
    np.testing.assert_allclose(betweenness(6, edges), enumerated(6, edges), atol=1e-12)


def test_doorways_of_two_rooms_are_found():
    """Two rooms of three by three cells with a corridor of one between their middles."""
    cells = [(row, column) for row in range(3) for column in range(7) if column != 3 or row == 1]
    number = {cell: index for index, cell in enumerate(cells)}
    edges = [
        (number[cell], number[row, column])
        for cell in cells
        for row, column in (
            (cell[0] + 1, cell[1]),
            (cell[0] - 1, cell[1]),
            (cell[0], cell[1] + 1),
            (cell[0], cell[1] - 1),
        )
        if (row, column) in number
    ]
    # Paths within a room lead through the cells beside the corridor too, so that these come first.
    assert [cells[state] for state in bottlenecks(len(cells), edges)] == [(1, 2), (1, 4)]


def test_no_edges_and_no_states_have_no_bottleneck():
    assert bottlenecks(3, []) == []
    assert betweenness(0, []).shape == (0,)


def test_a_transition_to_a_state_there_is_not_is_refused():
    with pytest.raises(ValueError, match="`edges` must join states of 0 to 2"):
        betweenness(3, [(0, 3)])


def test_uniform_subgoals_fill_the_box():
    box = spaces.Box(np.array([0.0, -2.0]), np.array([1.0, 2.0]), dtype=np.float64)
    goals = uniform_subgoals(box, 4000, random=np.random.default_rng(0))
    assert np.abs(goals.mean(0) - [0.5, 0]).max() < 0.1
    assert (goals.min(0) < [0.01, -1.98]).all()
    assert (goals.max(0) > [0.99, 1.98]).all()
    with pytest.raises(ValueError, match="`space` must be bounded"):
        uniform_subgoals(spaces.Box(-np.inf, np.inf, (2,)), 1, random=np.random.default_rng(0))


def test_achieved_subgoals_come_as_often_from_a_sparse_cell_as_from_a_dense_one():
    achieved = np.array([[0.0, 0.0]] * 990 + [[1.0, 1.0]] * 9 + [[1.0, 0.0]])
    drawn = achieved_subgoals(achieved, 6000, bins=2, random=np.random.default_rng(0))
    shares = [(drawn == place).all(1).mean() for place in ([0, 0], [1, 1], [1, 0])]
    assert np.abs(np.array(shares) - 1 / 3).max() < 0.03
    plain = achieved_subgoals(achieved, 6000, bins=1, random=np.random.default_rng(0))
    assert (plain == 0).all(1).mean() > 0.97


@pytest.mark.parametrize("achieved", [np.zeros((0, 2)), np.zeros(3), [[np.nan]], [[np.inf, 0.0]]])
def test_achieved_goals_that_are_none_are_refused(achieved):
    with pytest.raises(ValueError, match="`achieved` must be finite goals"):
        achieved_subgoals(achieved, 1, bins=2, random=np.random.default_rng(0))


def test_one_place_alone_is_drawn():
    drawn = achieved_subgoals([[2.0, 3.0]], 3, bins=4, random=np.random.default_rng(0))
    assert drawn.tolist() == [[2.0, 3.0]] * 3

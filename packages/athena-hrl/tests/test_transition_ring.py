"""The ring of transitions, and paths under subgoals, against lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athena_hrl._subgoal_paths import SubgoalPaths
from athena_hrl._transition_ring import TransitionRing


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(4, 7))
def test_a_ring_holds_the_last_rows(counts, capacity):
    ring, all_rows = TransitionRing(capacity, {"a": (), "b": (2,)}, seed=0), []
    for count in counts:
        new = np.arange(len(all_rows), len(all_rows) + count, dtype=float)
        ring.add(a=new, b=np.stack((new, -new), 1))
        all_rows += new.tolist()
    assert sorted(ring.rows()["a"].tolist()) == all_rows[-capacity:]
    if all_rows:
        drawn = ring.sample(50)
        assert set(drawn["a"].tolist()) <= set(all_rows[-capacity:])
        assert torch.equal(drawn["b"], torch.stack((drawn["a"], -drawn["a"]), 1))


def test_a_resumed_ring_draws_and_overwrites_as_an_uninterrupted_one():
    whole, other = (TransitionRing(3, {"a": ()}, seed=1) for _ in range(2))
    whole.add(a=np.arange(3.0))
    whole.add(a=np.arange(2.0))
    whole.sample(2)
    other.load_state_dict(whole.state_dict())
    for ring in (whole, other):
        ring.add(a=np.array([9.0]))
    assert torch.equal(whole.sample(9)["a"], other.sample(9)["a"])


def test_misuse_of_a_ring_is_named():
    with pytest.raises(ValueError, match="`capacity` must be at least 1; got 0"):
        TransitionRing(0, {"a": ()})
    ring = TransitionRing(2, {"a": (1,)})
    with pytest.raises(ValueError, match="a ring must hold a row to draw from"):
        ring.sample(1)
    with pytest.raises(ValueError, match=r"rows must have the names \['a'\]; got \['b'\]"):
        ring.add(b=np.zeros((1, 1)))
    with pytest.raises(ValueError, match=r"`a` must have the shape \(1, 1\); got \(1, 2\)"):
        ring.add(a=np.zeros((1, 2)))
    with pytest.raises(ValueError, match="`capacity` must be at least the 3 rows"):
        ring.add(a=np.zeros((3, 1)))
    with pytest.raises(ValueError, match="`state` must hold rows of the shapes"):
        ring.load_state_dict(TransitionRing(2, {"b": ()}).state_dict())


def test_paths_are_over_after_c_steps_or_at_an_end():
    paths = SubgoalPaths(2, 2, state_dim=1, goal_dim=1, subgoal_dim=1, action_dim=1)
    both, zeros = np.array([True, True]), np.zeros((2, 1))
    paths.begin(np.array([0, 1]), subgoal=np.array([[5.0], [6.0]]), goal=zeros)
    paths.extend(both, state=zeros + 1, action=zeros, reward=np.array([1.0, 2.0]))
    assert paths.close(both, ended=np.array([False, True])).tolist() == [1]
    taken = paths.taken(np.array([1]))
    assert (taken["subgoal"].tolist(), taken["reward"].tolist()) == ([[6.0]], [2.0])
    assert taken["mask"].tolist() == [[True, False]]
    paths.extend(np.array([True, False]), state=zeros + 2, action=zeros, reward=np.array([1.0, 9.0]))
    assert paths.close(both, ended=~both).tolist() == [0]
    assert paths.taken(np.array([0]))["states"].tolist() == [[[1.0], [2.0]]]
    assert paths.age.tolist() == [0, 0]


def test_paths_resume_and_refuse_those_of_another_shape():
    make = {"state_dim": 1, "goal_dim": 0, "subgoal_dim": 1, "action_dim": 1}
    paths, other = SubgoalPaths(2, 3, **make), SubgoalPaths(2, 3, **make)
    row = np.array([True, False])
    paths.extend(row, state=np.ones((2, 1)), action=np.ones((2, 1)), reward=np.ones(2))
    other.load_state_dict(paths.state_dict())
    assert other.age.tolist() == [1, 0]
    assert other.arrays["states"][0, 0] == 1
    with pytest.raises(ValueError, match=r"`state` must hold `age` of the shape \(1,\); got \(2,\)"):
        SubgoalPaths(1, 3, **make).load_state_dict(paths.state_dict())

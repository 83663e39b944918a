"""HIRO's goal transition and off-policy correction against slow references, and pitfalls 25 to 27."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from athena_hrl import (
    WorkerPath,
    corrected_subgoals,
    goal_transition,
    rolled_subgoals,
    subgoal_candidates,
    subgoal_scores,
)

DIMS = [2, 0]


def linear_worker(state: torch.Tensor, subgoal: torch.Tensor) -> torch.Tensor:
    return torch.tanh(subgoal @ torch.tensor([[0.7], [-0.2]], dtype=subgoal.dtype) + 0.3 * state[:, :1])


def path(rows: int = 3, steps: int = 4, lengths: list[int] | None = None) -> WorkerPath:
    states = torch.randn(rows, steps + 1, 3, dtype=torch.float64).cumsum(1)
    lengths = [steps] * rows if lengths is None else lengths
    mask = (torch.arange(steps) < torch.tensor(lengths)[:, None]).double()
    last = torch.stack([states[row, length] for row, length in enumerate(lengths)])
    return WorkerPath(states[:, :-1], torch.rand(rows, steps, 1, dtype=torch.float64), mask, last)


@given(st.integers(0, 6), st.integers(1, 9))
def test_pitfall_25_the_place_that_a_subgoal_names_stays_for_all_steps(seed, steps):
    """s + g is the same after every step, and dimensions that are no goal's have no say."""
    random = np.random.default_rng(seed)
    states = random.normal(size=(steps + 1, 3)).cumsum(0)
    subgoal = random.normal(size=2)
    place = states[0, DIMS] + subgoal
    for state, following in pairwise(states):
        other = following.copy()
        other[1] += 100
        subgoal = goal_transition(state, subgoal, other, goal_dims=DIMS)
        np.testing.assert_allclose(following[DIMS] + subgoal, place, atol=1e-12)


def test_rolling_is_the_goal_transition_step_by_step():
    walked = path()
    candidates = torch.randn(3, 5, 2, dtype=torch.float64)
    fast = rolled_subgoals(candidates, walked.states[..., DIMS])
    subgoal = candidates
    for step in range(4):
        torch.testing.assert_close(fast[:, :, step], subgoal)
        if step < 3:
            pair = walked.states[:, None, step], subgoal, walked.states[:, None, step + 1]
            subgoal = goal_transition(*pair, goal_dims=DIMS)


def slow_scores(candidates: torch.Tensor, walked: WorkerPath) -> torch.Tensor:
    scores = torch.zeros(candidates.shape[:2], dtype=torch.float64)
    for row in range(len(candidates)):
        for index, subgoal in enumerate(candidates[row]):
            for step in range(int(walked.mask[row].sum())):
                state = walked.states[row, step]
                error = walked.actions[row, step] - linear_worker(state[None], subgoal[None])[0]
                scores[row, index] -= 0.5 * error.square().sum()
                if step + 1 < walked.states.shape[1]:
                    subgoal = goal_transition(state, subgoal, walked.states[row, step + 1], goal_dims=DIMS)
    return scores


def test_pitfall_26_candidates_are_rolled_along_the_path_before_they_are_scored():
    walked, candidates = path(), torch.randn(3, 10, 2, dtype=torch.float64)
    scores = subgoal_scores(candidates, walked, linear_worker, goal_dims=DIMS)
    torch.testing.assert_close(scores, slow_scores(candidates, walked))
    held = walked._replace(states=walked.states[:, :1].expand(-1, 4, -1))  # as if no step had moved them
    assert not torch.allclose(scores, subgoal_scores(candidates, held, linear_worker, goal_dims=DIMS))


def test_pitfall_26_the_candidates_are_the_original_the_displacement_and_eight_around_it_clipped():
    limit = torch.tensor([1.0, 2.0])
    subgoal, moved = torch.tensor([[0.5, -0.5]]), torch.tensor([[3.0, 1.0]])
    noise = torch.randn(1, 8, 2)
    found = subgoal_candidates(subgoal, moved, noise, limit=limit)[0]
    assert found.shape == (10, 2)
    assert torch.equal(found[0], subgoal[0])
    assert torch.equal(found[1], torch.tensor([1.0, 1.0]))  # the first dimension is clipped
    by_hand = torch.stack([(moved[0] + 0.5 * limit * one).clamp(-limit, limit) for one in noise[0]])
    torch.testing.assert_close(found[2:], by_hand)


def test_pitfall_27_steps_after_an_early_end_count_nothing():
    torch.manual_seed(1)
    walked = path(lengths=[4, 2, 1])
    candidates = torch.randn(3, 10, 2, dtype=torch.float64)
    scores = subgoal_scores(candidates, walked, linear_worker, goal_dims=DIMS)
    torch.testing.assert_close(scores, slow_scores(candidates, walked))
    gone = walked.mask == 0
    walked.states[gone] = 1e6
    walked.actions[gone] = -1e6
    torch.testing.assert_close(subgoal_scores(candidates, walked, linear_worker, goal_dims=DIMS), scores)


def test_the_correction_takes_the_candidate_under_which_the_worker_did_what_it_did():
    """Actions are those of the worker under a hidden subgoal, which is the displacement."""
    walked = path(rows=5)
    hidden = walked.last_state[:, DIMS] - walked.states[:, 0, DIMS]
    rolled = rolled_subgoals(hidden[:, None], walked.states[..., DIMS])[:, 0]
    actions = linear_worker(walked.states.flatten(0, 1), rolled.flatten(0, 1)).unflatten(0, (5, 4))
    limit = torch.full((2,), 100.0, dtype=torch.float64)
    noise = torch.randn(5, 8, 2, dtype=torch.float64)
    found = corrected_subgoals(
        torch.zeros(5, 2, dtype=torch.float64),
        walked._replace(actions=actions),
        linear_worker,
        noise=noise,
        limit=limit,
        goal_dims=DIMS,
    )
    torch.testing.assert_close(found, hidden)


def test_of_equal_candidates_the_original_stays():
    walked = path()
    original = torch.randn(3, 2, dtype=torch.float64)
    options = {
        "noise": torch.randn(3, 8, 2, dtype=torch.float64),
        "limit": torch.full((2,), 9.0),
        "goal_dims": DIMS,
    }
    found = corrected_subgoals(original, walked, lambda state, goal: torch.zeros(len(state), 1), **options)
    assert torch.equal(found, original)


def test_no_rows_give_no_subgoals():
    empty = WorkerPath(torch.zeros(0, 4, 3), torch.zeros(0, 4, 1), torch.zeros(0, 4), torch.zeros(0, 3))
    options = {"noise": torch.zeros(0, 8, 2), "limit": torch.ones(2), "goal_dims": DIMS}
    assert corrected_subgoals(torch.zeros(0, 2), empty, linear_worker, **options).shape == (0, 2)

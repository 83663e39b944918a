"""Q-learning in tables: hand-worked values, the two streams, DeepSea, state, misuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from athena_core import load_checkpoint, save_checkpoint
from athena_core.environments import ReplayableEnv
from athena_explore import Counts, QLearning, Visit
from athena_explore._recipe_environment import make_environment
from athena_explore._recipe_q_learning import QLearner

# The settings of the recipe for every size of DeepSea.
DEEP_SEA: dict[str, Any] = {"gamma": 0.99, "intrinsic_gamma": 0.8, "step_size": 1.0}


def table(**options: Any) -> QLearning:
    return QLearning(
        4, 2, **{"coefficient": 1.0, "gamma": 0.5, "intrinsic_gamma": 0.5, "step_size": 0.5, **options}
    )


def test_an_episode_by_hand():
    q = table()
    episode = [Visit(0, 0, 1.0, 1), Visit(1, 1, 4.0, 2)]
    q.learn(episode, [2.0, 8.0], terminated=True, next_start=3)
    # Last step first; the intrinsic stream goes on to state 3, which knows nothing yet.
    assert q.extrinsic[1, 1] == 0.5 * 4
    assert q.intrinsic[1, 1] == 8  # whole, the first time
    assert q.extrinsic[0, 0] == 0.5 * (1 + 0.5 * 2)
    assert q.intrinsic[0, 0] == 2 + 0.5 * 8
    q.learn(episode, [2.0, 4.0], terminated=True, next_start=0)
    assert q.extrinsic[1, 1] == 2 + 0.5 * (4 - 2)
    assert q.intrinsic[1, 1] == 8 + 0.5 * (4 + 0.5 * 6 - 8)  # on to state 0, and half of the way


def test_a_truncated_episode_is_continued_by_what_follows_and_a_terminated_one_is_not():
    for terminated, expected in ((False, 0.5 * (1 + 0.5 * 10)), (True, 0.5 * 1)):
        q = table(coefficient=0.0)
        q.extrinsic[2, 0] = 10
        q.learn([Visit(0, 0, 1.0, 2)], [0.0], terminated=terminated, next_start=1)
        assert q.extrinsic[0, 0] == expected


def test_the_intrinsic_stream_goes_on_to_the_next_episodes_start_however_it_ended():
    for terminated in (False, True):
        q = table()
        q.intrinsic[3], q.taken[3] = [6, 7], True
        q.learn([Visit(0, 0, 0.0, 2)], [1.0], terminated=terminated, next_start=3)
        assert q.intrinsic[0, 0] == 1 + 0.5 * 7


def test_what_was_never_taken_is_as_good_as_the_best_that_was():
    q = table()
    q.learn([Visit(0, 0, 0.0, 1)], [5.0], terminated=True, next_start=2)
    assert {q.act(0) for _ in range(30)} == {0, 1}
    q.learn([Visit(0, 1, 0.0, 1)], [4.0], terminated=True, next_start=2)
    assert {q.act(0) for _ in range(30)} == {0}


def test_without_a_coefficient_bonuses_change_nothing():
    one, other = table(coefficient=0.0), table(coefficient=0.0)
    for bonus, q in ((0.0, one), (9.0, other)):
        for _ in range(3):
            q.learn([Visit(0, 1, -1.0, 1), Visit(1, 0, 2.0, 2)], [bonus] * 2, terminated=True, next_start=0)
    assert (one.extrinsic == other.extrinsic).all()
    assert [one.act(s % 4) for s in range(40)] == [other.act(s % 4) for s in range(40)]


def test_epsilon_is_the_share_of_random_steps():
    q = table(epsilon=0.5)
    q.extrinsic[0] = [0, 1]
    assert np.mean([q.act(0) for _ in range(4000)]) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("gamma", [0.0, 0.9])
def test_it_comes_to_the_values_of_a_chain(gamma):
    """Against value iteration: states 0 to 3, left and right, 1 for arriving at 3."""
    next_state = np.array([[0, 1], [0, 2], [1, 3]])
    exact = np.zeros((4, 2))
    for _ in range(200):
        exact[:3] = (next_state == 3) + gamma * (next_state < 3) * exact[next_state].max(-1)
    q = table(coefficient=0.0, gamma=gamma, epsilon=1.0)
    for _ in range(200):
        state, episode = 0, []
        while state < 3:
            action = q.act(state)
            episode.append(
                Visit(state, action, float(next_state[state, action] == 3), int(next_state[state, action]))
            )
            state = episode[-1].next_state
        q.learn(episode, [0.0] * len(episode), terminated=True, next_start=0)
    np.testing.assert_allclose(q.extrinsic, exact, atol=1e-9)


def test_a_restored_table_goes_on_as_the_saved_one(tmp_path):
    q, other = table(epsilon=0.3), table(epsilon=0.3, seed=9)
    q.learn([Visit(0, 1, 1.0, 2)], [3.0], terminated=False, next_start=1)
    q.act(0)
    save_checkpoint(tmp_path / "q.pt", q.state_dict())
    other.load_state_dict(load_checkpoint(tmp_path / "q.pt"))
    assert [q.act(0) for _ in range(50)] == [other.act(0) for _ in range(50)]
    assert (q.intrinsic == other.intrinsic).all()
    with pytest.raises(ValueError, match=r"tables of the shape \(5, 2\); got \(4, 2\)"):
        QLearning(5, 2, coefficient=0.0).load_state_dict(q.state_dict())


def dive(size: int, *, episodes: int, coefficient: float, epsilon: float = 0.0) -> list[float]:
    """Returns of episodes of DeepSea."""
    made = make_environment(
        "athena_explore.environments:athena/DeepSea-v0",
        options={"size": size, "observation": "index", "mapping_seed": 42},
    )
    env = ReplayableEnv(made.env, seed=0)
    options = {**DEEP_SEA, "coefficient": coefficient, "epsilon": epsilon}
    bonus = Counts(env.observation_space, env.action_space)
    learner = QLearner(env, bonus, n_steps=size * episodes, options=options)
    learner.rollout()
    return [total for total, _ in env.drain().ended]


def test_counts_find_the_treasure_of_deep_sea_and_epsilon_does_not():
    found = dive(8, episodes=250, coefficient=0.1)
    assert found[-50:] == [pytest.approx(0.99)] * 50
    assert max(dive(8, episodes=250, coefficient=0.0, epsilon=0.1)) <= 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coefficient": -1.0}, "`coefficient` must be a finite number of at least 0; got -1.0"),
        ({"gamma": 1.1}, r"`gamma` must lie in \[0, 1\]; got 1.1"),
        (
            {"intrinsic_gamma": 1.0},
            r"`intrinsic_gamma` must lie in \[0, 1\), since that stream never ends; got 1.0",
        ),
        ({"step_size": 0.0}, r"`step_size` must lie in \(0, 1\]; got 0.0"),
        ({"epsilon": float("nan")}, r"`epsilon` must lie in \[0, 1\]; got nan"),
    ],
)
def test_misuse_is_told_in_one_line(options, words):
    with pytest.raises(ValueError, match=words) as error:
        table(**options)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="`n_states` must be at least 1; got 0"):
        QLearning(0, 1, coefficient=0.0)

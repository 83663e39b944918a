"""Q-learning over options: the target, masks, one-step options, four rooms, schedules, state, misuse."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from walk import Walk, run_options, walk, walks

from athena_core import load_checkpoint, save_checkpoint
from athena_core.environments import NumpyEnv, NumpyVectorEnv
from athena_hrl import (
    FourRooms,
    OptionEnv,
    Options,
    OptionVectorEnv,
    SMDPQLearning,
    hallway_options,
    option_models,
    option_policy_iteration,
    primitives,
    smdp_target,
)


def test_the_target_by_hand():
    """Pitfalls 9 and 10: gamma^k, no bootstrap at a termination, the maximum over what can start."""
    next_q = [[1.0, 8.0], [1.0, 8.0], [1.0, 8.0], [-3.0, -5.0]]
    available = [[True, True], [True, False], [True, True], [False, True]]
    target = smdp_target(
        [1.0, 1.0, 1.0, 0.0],
        [0.5, 0.25, 0.5, 1.0],
        next_q,
        terminated=[False, False, True, False],
        available=available,
    )
    assert target.tolist() == [5.0, 1.25, 1.0, -5.0]
    assert smdp_target(2.0, 0.5, [4.0], terminated=True, available=[False]) == 2
    with pytest.raises(ValueError, match="`available` must hold an option"):
        smdp_target(2.0, 0.5, [4.0], terminated=False, available=[False])
    assert smdp_target(
        [], [], np.zeros((0, 2)), terminated=np.zeros(0, bool), available=np.zeros((0, 2), bool)
    ).shape == (0,)


def plain_q_learning(env: Any, *, steps: int, step_size: float, gamma: float, epsilon: float) -> np.ndarray:
    """Watkins' Q-learning as it is written in textbooks, truncated episodes bootstrapped."""
    q, random, state = np.zeros((env.observation_space.n, env.action_space.n)), np.random.default_rng(5), None
    for step in range(steps):
        if state is None:
            state = env.reset(seed=5 if step == 0 else None)[0]
        able = np.arange(q.shape[1])
        if random.random() >= epsilon:
            able = np.flatnonzero(q[state] == q[state].max())
        action = able[0] if len(able) == 1 else able[random.integers(len(able))]
        after, reward, terminated, truncated, _ = env.step(action)
        target = reward + gamma * (0 if terminated else q[after].max())
        q[state, action] += step_size * (target - q[state, action])
        state = None if terminated or truncated else after
    return q


@pytest.mark.parametrize("over_options", [True, False])
def test_options_of_one_step_are_q_learning_step_for_step(over_options):
    """Pitfall 9: k = 1."""
    settings = {"step_size": 0.3, "gamma": 0.9, "epsilon": 0.4}
    expected = plain_q_learning(walk(limit=7), steps=1500, **settings)
    env = walk(limit=7)
    gamma = settings.pop("gamma")
    if over_options:
        env = OptionEnv(env, primitives(env), gamma=gamma)
    agent = SMDPQLearning(env, gamma=gamma, seed=5, **settings)  # pyright: ignore[reportArgumentType]
    assert (agent.learn(500).learn(1000).q == expected).all()
    assert agent.steps == 1500 == agent.visits.sum()


class Scripted(gym.Env[Any, Any]):
    """Gives transitions that are written down, whatever is chosen."""

    observation_space, action_space = gym.spaces.Discrete(3), gym.spaces.Discrete(3)
    gamma = 0.5

    def __init__(self, *steps: tuple[int, float, bool, bool, int, list[bool]]) -> None:
        self.steps, self.chosen = list(steps), []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return 0, {"action_mask": np.array([False, True, False]), "duration": 0, "discount": 1.0}

    def step(self, action: Any) -> Any:
        self.chosen.append(action)
        state, reward, terminated, truncated, duration, mask = self.steps.pop(0)
        info = {"action_mask": np.array(mask), "duration": duration, "discount": 0.5**duration}
        return state, reward, terminated, truncated, info


@pytest.mark.parametrize(("terminated", "expected"), [(True, 3.0), (False, 3.0 + 0.25 * 6)])
def test_a_truncated_episode_is_continued_by_what_can_start_and_a_terminated_one_is_not(terminated, expected):
    """Pitfalls 9 and 10."""
    env = Scripted((2, 3.0, terminated, not terminated, 2, [True, False, True]))
    agent = SMDPQLearning(env, step_size=1.0)
    agent.q[2] = [4, 99, 6]
    agent.learn(1)
    assert agent.q[0].tolist() == [0, expected, 0]
    assert agent.steps == 2


def test_random_choices_keep_to_the_mask():
    """Pitfall 10: in the draw of epsilon, too."""
    masks = [[True, False, True], [False, False, True], [True, False, True]] * 100
    env = Scripted(*[(1, 0.0, False, False, 1, mask) for mask in masks])
    SMDPQLearning(env, epsilon=1.0).learn(300)
    assert env.chosen[0] == 1
    for mask, chosen in zip(masks, env.chosen[1:], strict=False):
        assert mask[chosen]
    assert set(env.chosen[1:]) == {0, 2}


def test_options_without_a_duration_cost_no_discount():
    env = Scripted((2, 1.0, False, False, 0, [True] * 3), (0, 0.0, True, False, 1, [True] * 3))
    agent = SMDPQLearning(env, step_size=1.0, initial=8.0).learn(1)
    assert agent.q[0, 1] == 1 + 8
    assert agent.steps == 1


def four_rooms(gamma: float = 0.9) -> tuple[OptionEnv, Any]:
    rooms = FourRooms(slip=0)
    env = OptionEnv(NumpyEnv(rooms), hallway_options(rooms), gamma=gamma)
    models = option_models(rooms.model(), env.options.tables(), gamma=gamma)
    return env, models


def test_hallway_options_reach_the_exact_solution_of_four_rooms():
    """Pitfall 13: what is learned from steps is the solution of the process over options, to 1e-6."""
    env, models = four_rooms()
    available = env.options.tables().initiation
    _, q = option_policy_iteration(models, available)
    agent = SMDPQLearning(env, step_size=1.0, epsilon=1.0, seed=1).learn(25_000)
    goal = FourRooms().goal
    met = available.copy()
    met[goal] = False
    assert (agent.visits[met] > 0).all()
    assert np.abs(agent.q - q)[met].max() < 1e-6


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_vector_environment_of_one_row_is_learned_in_as_a_single_one(mode):
    settings = {"step_size": 0.3, "epsilon": lambda steps: 0.5 if steps < 300 else 0.1, "seed": 4}
    one = SMDPQLearning(OptionEnv(walk(limit=9), run_options(), gamma=0.9), **settings)
    other = SMDPQLearning(OptionVectorEnv(walks(1, limit=9, mode=mode), run_options(), gamma=0.9), **settings)
    assert (one.learn(600).q == other.learn(600).q).all()
    assert one.steps == other.steps
    assert (one.visits == other.visits).all()


def test_rows_learn_together():
    rooms = FourRooms(slip=0)
    env = OptionVectorEnv(NumpyVectorEnv(rooms, 8), hallway_options(rooms), gamma=0.9)
    models = option_models(rooms.model(), env.options.tables(), gamma=0.9)
    available = env.options.tables().initiation
    _, q = option_policy_iteration(models, available)
    agent = SMDPQLearning(env, step_size=1.0, epsilon=1.0).learn(10_000)
    doors = np.zeros_like(available)
    doors[[hall for hall in rooms.hallways if hall != rooms.goal]] = True
    assert (agent.visits[doors & available] > 50).all()
    assert np.abs(agent.q - q)[doors & available].max() < 1e-6
    with pytest.raises(ValueError, match="`env` must be `OptionVectorEnv` if it has rows"):
        SMDPQLearning(NumpyVectorEnv(rooms, 8), gamma=0.9)  # pyright: ignore[reportArgumentType]


def test_a_step_size_of_1_over_visits_is_the_mean():
    env = Scripted(*[(0, reward, True, False, 1, [True] * 3) for reward in (4.0, 8.0, 3.0)])
    agent = SMDPQLearning(env, step_size=lambda visits: 1 / visits).learn(3)
    assert agent.q[0, 1] == pytest.approx(5)


def test_epsilon_follows_the_steps():
    asked: list[int] = []

    def epsilon(steps: int) -> float:
        asked.append(steps)
        return 0.5

    env = Scripted(*[(0, 0.0, False, False, 2, [True] * 3)] * 4)
    SMDPQLearning(env, epsilon=epsilon).learn(8)
    assert asked == [1, 0, 2, 4, 6]  # the first asks whether it is a share at all


def test_learning_can_be_saved_and_goes_on(tmp_path):
    def agent() -> SMDPQLearning:
        return SMDPQLearning(OptionEnv(walk(limit=20), run_options()), step_size=0.3, epsilon=0.3)

    one = agent().learn(500)
    save_checkpoint(tmp_path / "agent.pt", one.state_dict())
    other = agent()
    other.load_state_dict(load_checkpoint(tmp_path / "agent.pt"))
    assert (one.q == other.q).all()
    assert (one.visits == other.visits).all()
    assert other.steps == one.steps
    mask = np.ones(5, bool)
    assert [one.act(3, mask) for _ in range(50)] == [other.act(3, mask) for _ in range(50)]
    with pytest.raises(ValueError, match=r"tables of the shape \(9, 2\)"):
        SMDPQLearning(walk(9), gamma=0.9).load_state_dict(one.state_dict())


def test_another_gamma_than_the_environments_raises():
    """Required by the issue, also through wrappers, which have a gamma of their own at times."""
    env = OptionEnv(walk(), run_options(), gamma=0.9)
    wrapped = gym.wrappers.NormalizeReward(gym.wrappers.TimeLimit(env, 10), gamma=0.5)
    for one in (env, wrapped):
        assert SMDPQLearning(one).gamma == SMDPQLearning(one, gamma=0.9).gamma == 0.9
        with pytest.raises(ValueError, match=r"has discounted rewards by 0\.9; got 0\.99"):
            SMDPQLearning(one, gamma=0.99)
    with pytest.raises(ValueError, match="`gamma` must be given"):
        SMDPQLearning(walk())
    plain = gym.wrappers.NormalizeReward(walk(), gamma=0.5)
    assert SMDPQLearning(plain, gamma=0.7).learn(20).steps == 20


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"step_size": 0.3, "epsilon": 1.5}, r"`epsilon` must lie in \[0, 1\]; got 1.5"),
        ({"step_size": -1}, r"`step_size` must lie in \[0, 1\]; got -1"),
        ({"step_size": lambda visits: 2.0 * visits}, "got 2.0 at 1"),
        ({"gamma": 2.0}, r"`gamma` must lie in \[0, 1\]"),
        ({"epsilon": float("nan")}, "`epsilon` must lie"),
    ],
)
def test_numbers_out_of_their_range(options, says):
    with pytest.raises(ValueError, match=says):
        SMDPQLearning(walk(), **{"gamma": 0.9, **options})


def test_spaces_that_are_no_tables():
    with pytest.raises(ValueError, match="`env` must have observations that are Discrete from 0"):
        SMDPQLearning(gym.make("CartPole-v1"), gamma=0.9)
    assert Walk(3).observation_space.n == 3
    assert len(Options(run_options(), walk())) == 5

"""Exact solutions: hand-worked, against linear equations, and Taxi's optimum."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena_hrl import FiniteMDP, expected_return, finite_mdp, value_iteration


def drawn_model(seed: int, n_states: int = 5, n_actions: int = 3) -> FiniteMDP:
    random = np.random.default_rng(seed)
    transition = random.dirichlet(np.ones(n_states + 1), (n_states, n_actions))[..., :n_states]
    return FiniteMDP(
        transition, random.normal(size=(n_states, n_actions)), random.dirichlet(np.ones(n_states))
    )


@given(st.integers(0, 2**16), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_values_satisfy_the_bellman_equation_and_their_policy_earns_them(seed: int, gamma: float) -> None:
    model = drawn_model(seed)
    q = value_iteration(model.transition, model.reward, gamma=gamma)
    np.testing.assert_allclose(q, model.reward + gamma * model.transition @ q.max(1), atol=1e-9)
    # Linear equations of its greedy policy are another way to the same values.
    at = np.arange(5), q.argmax(1)
    value = np.linalg.solve(np.eye(5) - gamma * model.transition[at], model.reward[at])
    np.testing.assert_allclose(value, q.max(1), atol=1e-9)
    earned = expected_return(model, q.argmax(1), steps=2_000, gamma=gamma)
    assert earned == pytest.approx(model.start @ value, abs=1e-9)


def test_taxi_is_worth_7_93() -> None:
    model = finite_mdp(gym.make("Taxi-v4"))
    for gamma in (0.99, 1.0):
        greedy = value_iteration(model.transition, model.reward, gamma=gamma).argmax(1)
        assert expected_return(model, greedy, steps=200) == pytest.approx(7.93, abs=1e-9)
    uniform = np.full(model.reward.shape, 1 / 6)
    assert expected_return(model, uniform, steps=200) == pytest.approx(-771.091, abs=1e-3)


def test_model_and_environment_agree_on_what_a_policy_earns() -> None:
    env = gym.make("Taxi-v4", is_rainy=True)
    model = finite_mdp(env)
    greedy = value_iteration(model.transition, model.reward, gamma=0.99).argmax(1)
    returns = []
    for episode in range(400):
        state, _ = env.reset(seed=episode)
        total, done = 0.0, False
        while not done:
            state, reward, terminated, truncated, _ = env.step(int(greedy[state]))
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    error = np.std(returns) / 20
    assert expected_return(model, greedy, steps=200) == pytest.approx(np.mean(returns), abs=3 * error)


def test_an_unavailable_action_is_never_counted_on() -> None:
    # In state 0 action 1 would lead to the reward; only action 0, which ends, can be taken.
    transition = np.zeros((2, 2, 2))
    transition[0, 1, 1] = 1.0
    reward = np.array([[1.0, np.nan], [100.0, 100.0]])
    q = value_iteration(transition, reward, available=[[True, False], [False, False]])
    assert q.tolist() == [[1.0, -np.inf], [-np.inf, -np.inf]]


def test_models_of_options_carry_their_discount() -> None:
    # An option of 3 steps that earns 1, 1, 1 and ends in state 1, where 8 is paid: 1.75 + 0.5^3 * 8.
    q = value_iteration([[[0.0, 0.125]], [[0.0, 0.0]]], [[1.75], [8.0]])
    assert q[0, 0] == 2.75


def test_a_policy_with_memory() -> None:
    # It goes on twice and then ends: -1 - 1 + 5, whatever the state says.
    model = FiniteMDP(np.array([[[1.0], [0.0]]]), np.array([[-1.0, 5.0]]), np.ones(1))

    def act(memory, state):
        count = memory or 0
        return [(1.0, int(count == 2), count + 1)]

    assert expected_return(model, act, steps=10) == 3.0
    # Memory may grow without an end, the time limit has one.
    assert expected_return(model, lambda memory, state: [(1.0, 0, (memory, state))], steps=10) == -10.0
    assert expected_return(model, act, steps=2) == -2.0
    assert expected_return(model, act, steps=10, gamma=0.5) == -1 - 0.5 + 0.25 * 5


def test_no_states_have_no_values() -> None:
    assert value_iteration(np.zeros((0, 2, 0)), np.zeros((0, 2))).shape == (0, 2)


def test_bad_input() -> None:
    one = np.ones((1, 1, 1))
    with pytest.raises(ValueError, match=r"`transition` must be \(states, actions, states\)"):
        value_iteration(np.ones((1, 2, 1)), [[1.0]])
    with pytest.raises(ValueError, match="sum to 1 at most"):
        value_iteration(2 * one, [[1.0]])
    with pytest.raises(ValueError, match="finite; got NaN"):
        value_iteration(one, [[np.nan]])
    with pytest.raises(ValueError, match="`available` must have the shape"):
        value_iteration(one, [[1.0]], available=[True])
    with pytest.raises(ValueError, match=r"`gamma` must lie in \[0, 1\]; got 2"):
        value_iteration(one, [[1.0]], gamma=2)
    with pytest.raises(ValueError, match="must settle; after 50 sweeps"):
        value_iteration(one, [[1.0]], max_sweeps=50)
    model = FiniteMDP(one, np.ones((1, 1)), np.ones(1))
    with pytest.raises(ValueError, match="`steps` must be at least 1"):
        expected_return(model, [0], steps=0)
    with pytest.raises(ValueError, match="`policy` must be actions"):
        expected_return(model, [0, 0], steps=1)
    with pytest.raises(ValueError, match=r"sum to 1; got 0.5 in state 0"):
        expected_return(model, [[0.5]], steps=1)
    with pytest.raises(ValueError, match="must have a table `P`"):
        finite_mdp(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="fickle"):
        finite_mdp(gym.make("Taxi-v4", fickle_passenger=True))

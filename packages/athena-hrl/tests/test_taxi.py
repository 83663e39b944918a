"""What is known of Taxi beforehand is true, and learners with it learn what it says; the recipe goes on."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from small_mdp import recursive_optimum

from athena_core import AthenaError
from athena_hrl import InducedSMDP, TaxiRecipe, expected_return, finite_mdp, value_iteration
from athena_hrl._fickle_taxi import fickle_model
from athena_hrl._recipe_taxi import SHARE, TaxiLab, steps_to
from athena_hrl._taxi_arms import TIME_LIMIT, TaxiArms
from athena_hrl._taxi_machine import _OPEN_WAYS, MOVES, N_STATES, taxi_state


@pytest.fixture(scope="module")
def arms() -> TaxiArms:
    return TaxiArms({}, {"step_size": 0.5, "epsilon": 0.1})


def optimal_values(arms: TaxiArms) -> np.ndarray:
    return value_iteration(arms.model.transition, arms.model.reward).max(1)


def test_states_and_walls_are_those_of_the_environment(arms: TaxiArms) -> None:
    env = arms.env.unwrapped
    for number in range(N_STATES):
        row, column, passenger, destination = env.decode(number)
        state = taxi_state(number)
        assert (state.position, *state[1:]) == ((row, column), passenger, destination)
        mask = env.action_mask(number)
        assert _OPEN_WAYS[state.position] == tuple(move for move in MOVES if mask[move])


def test_hand_made_options_are_as_good_as_actions(arms: TaxiArms) -> None:
    """By the models of the options: drive there, and serve; the optimum of both is one."""
    table, model = arms.tables, arms.model
    n_options = table.policy.shape[1]
    reward, onward = np.zeros((N_STATES, n_options)), np.zeros((N_STATES, n_options, N_STATES))
    for option in range(n_options):
        at = np.arange(N_STATES), table.policy[:, option].argmax(1)
        goes_on = model.transition[at] * (1 - table.termination[:, option])
        inside = np.eye(N_STATES) - np.where(table.initiation[:, option, None], goes_on, 0.0)
        reward[:, option] = np.linalg.solve(inside, model.reward[at])
        onward[:, option] = np.linalg.solve(inside, model.transition[at] * table.termination[:, option])
    over_options = value_iteration(onward, reward, available=table.initiation).max(1)
    np.testing.assert_allclose(over_options, optimal_values(arms), atol=1e-9)


def test_the_optimum_of_the_task_graph_is_that_of_the_actions(arms: TaxiArms) -> None:
    exact = recursive_optimum(arms.graph, arms.model, 1.0)
    starts = arms.model.start > 0
    np.testing.assert_allclose(exact["root"][starts], optimal_values(arms)[starts], atol=1e-9)


def test_abstract_values_sum_to_the_optimum_in_each_state(arms: TaxiArms) -> None:
    """617 values of MAXQ, and fewer of ALisp's parts than there are states and actions, are enough."""
    values, starts = optimal_values(arms), np.flatnonzero(arms.model.start)
    maxq = arms.build("maxq", seed=100)
    maxq.learn(20_000)
    maxq.epsilon, maxq.step_size = 0.0, 1.0  # recursively optimal children, and no averages any more
    maxq.learn(10_000)
    np.testing.assert_allclose([maxq.value("root", state) for state in starts], values[starts], atol=1e-6)
    alisp = arms.build("alisp", seed=100)
    alisp.learn(20_000)
    alisp.epsilon, alisp.step_size = 0.0, 1.0
    alisp.learn(10_000)
    assert alisp.n_values < N_STATES * 6 / 2
    smdp = InducedSMDP(arms.env, arms.program, gamma=1.0)
    for seed in range(40):
        segment = smdp.reset(seed=seed)
        if segment.duration == 0:  # else the taxi began at the passenger's pad
            state = segment.observation
            assert alisp.q(segment.point).max() == pytest.approx(values[state], abs=1e-6)


def test_without_abstraction_more_values_take_longer(arms: TaxiArms) -> None:
    whole = TaxiArms({}, arms.learner_options, abstraction=False)
    for arm in ("ham", "maxq", "alisp"):
        shared, apart = (
            one.greedy_return(arm, one.build(arm, seed=103).learn(6_000)) for one in (arms, whole)
        )
        assert shared > apart + 20


def test_ham_gets_there_in_a_third_of_flat_q_learnings_steps(arms: TaxiArms) -> None:
    """The short version of the recipe, whose numbers are in the documentation: one seed."""
    bar = arms.random + SHARE * (arms.optimum - arms.random)
    ham = arms.build("ham", seed=101)
    while arms.greedy_return("ham", ham) < bar:
        ham.learn(1_000)
    assert ham.steps <= 10_000
    flat = arms.build("flat", seed=101).learn(3 * ham.steps)
    assert arms.greedy_return("flat", flat) < bar


@pytest.mark.parametrize("arm", ["smdp", "ham", "maxq"])
def test_policies_are_evaluated_as_they_run(arms: TaxiArms, arm: str) -> None:
    """Half-learned, so that some loop and some pay for illegal actions until the time limit."""
    learner = arms.build(arm, seed=102).learn(2_500)
    for seed in range(8):
        env = arms.option_env if arm == "smdp" else arms.env
        state, info = env.reset(seed=seed)
        model = arms.model._replace(start=np.eye(N_STATES)[state])
        expected = expected_return(model, arms.policy(arm, learner), steps=TIME_LIMIT)
        total, done, memory = 0.0, False, None
        act = learner.policy() if arm == "maxq" else None
        smdp = InducedSMDP(arms.env, arms.program, gamma=1.0)
        segment = smdp.reset(seed=seed) if arm == "ham" else None
        while not done:
            if segment is not None:
                total, done = total + segment.total, segment.terminated or segment.truncated
                if not done:
                    values = learner.values(learner.key(segment.point), len(segment.point.options))
                    segment = smdp.choose(values.index(max(values)))
                continue
            if act is not None:
                ((_, action, memory),) = act(memory, state)
            else:
                action = int(np.where(info["action_mask"], learner.q[state], -np.inf).argmax())
            state, reward, terminated, truncated, info = env.step(action)
            total, done = total + float(reward), terminated or truncated
        assert total == pytest.approx(expected)


def test_a_run_goes_on_bit_for_bit() -> None:
    recipe = TaxiRecipe(steps=400, points=2, runs=2)
    one, other = TaxiLab(recipe, seed=3), TaxiLab(recipe, seed=3)
    one.advance(1)
    other.load_state_dict(one.state_dict())
    one.advance(2)
    other.advance(2)
    for arm in recipe.arms:
        assert (one.curves[arm] == other.curves[arm]).all()
        assert repr(one.learners[arm]) == repr(other.learners[arm])


def test_rain_lowers_the_optimum_and_changes_the_way() -> None:
    rain = TaxiArms({"is_rainy": True, "rainy_probability": 0.8}, {})
    assert rain.optimum == pytest.approx(3.955, abs=1e-3)
    exact = recursive_optimum(rain.graph, rain.model, 1.0)
    starts = rain.model.start > 0
    assert rain.model.start[starts] @ exact["root"][starts] == pytest.approx(rain.optimum, abs=1e-2)


def test_fickle_passengers_are_modelled_as_the_environment_plays_them() -> None:
    arms = TaxiArms({"fickle_passenger": True, "fickle_probability": 0.6}, {})
    learner = arms.build("flat", seed=0)
    steady = finite_mdp(gym.make("Taxi-v4"))
    learner.q = value_iteration(steady.transition, steady.reward, gamma=0.99)
    exact = arms.greedy_return("flat", learner)
    returns = np.zeros(300)
    for episode in range(len(returns)):
        state, _ = arms.env.reset(seed=episode)
        done = False
        while not done:
            state, reward, terminated, truncated, _ = arms.env.step(int(learner.q[state].argmax()))
            returns[episode] += float(reward)
            done = terminated or truncated
    error = returns.std() / np.sqrt(len(returns))
    assert exact == pytest.approx(returns.mean(), abs=3 * error)
    assert exact <= arms.optimum + 1e-9
    with pytest.raises(ValueError, match="`probability` must lie in"):
        fickle_model(steady, 1.5)


def test_polling_follows_a_passenger_who_changes_his_mind() -> None:
    """As in section 7.1 of the MAXQ paper: with subtasks that run to their end, the taxi goes there first."""
    arms = TaxiArms({"fickle_passenger": True, "fickle_probability": 0.3}, {"epsilon": 0.2})
    learner = arms.build("maxq", seed=100).learn(30_000)
    returns = []
    for polling in (False, True):
        act = learner.policy(polling=polling)
        seeing = lambda memory, state, act=act: act(memory, state % N_STATES)  # noqa: E731
        returns.append(expected_return(arms.model, seeing, steps=TIME_LIMIT))
    assert returns[0] < arms.optimum - 2
    assert returns[1] > arms.optimum - 0.1


def test_steps_to_a_level() -> None:
    curves = np.array([[-5.0, 1.0, -5.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert steps_to(curves, np.array([1, 2, 3, 4]), level=1.0).tolist() == [2.0, np.inf]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 0}, "`runs` must be at least 1; got 0"),
        ({"steps": 5, "points": 6}, "`points` must be at most `steps`, 5; got 6"),
        ({"arms": ("flat", "deep")}, "`arms` must be different ones of flat, smdp, intra, ham, maxq, alisp"),
        ({"arms": ("flat", "flat")}, "`arms` must be different ones"),
        ({"rainy_probability": 2.0}, "`rainy_probability` must lie in"),
        ({"step_size": 2.0}, r"`step_size` must lie in \[0, 1\]; got 2.0"),
        ({"epsilon": float("nan")}, "`epsilon` must lie in"),
    ],
)
def test_bad_input(options: dict, message: str) -> None:
    with pytest.raises(AthenaError, match=message):
        TaxiRecipe(**options).run(None)

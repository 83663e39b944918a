"""Models of options and planning with them, against brute force and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from walk import Walk, drawing_options, run_options, walk

from athena_core.environments import NumpyEnv
from athena_hrl import (
    FiniteMDP,
    FourRooms,
    Option,
    OptionEnv,
    OptionModels,
    Options,
    OptionTables,
    evaluate_options,
    hallway_options,
    option_models,
    option_policy_iteration,
    primitives,
    value_iteration,
)


def brute_force(model: FiniteMDP, options: OptionTables, gamma: float, *, sweeps: int = 4000) -> np.ndarray:
    """Values of each option under way, from single steps alone: no model of an option, no linear system."""
    transition, reward, _ = model
    q = np.zeros(options.termination.shape)
    for _ in range(sweeps):
        best = np.where(options.initiation, q, -np.inf).max(1)
        best = np.where(np.isfinite(best), best, 0.0)
        arrival = (1 - options.termination) * q + options.termination * best[:, None]
        after = np.einsum("soa,sa->so", options.policy, reward)
        after += gamma * np.einsum("soa,sat,to->so", options.policy, transition, arrival)
        if np.abs(after - q).max() < 1e-14:
            break
        q = after
    return q


def random_case(seed: int) -> tuple[FiniteMDP, OptionTables]:
    """A process with options that draw and may start anywhere or not; one always may."""
    random = np.random.default_rng(seed)
    states, actions, count = random.integers([1, 1, 1], [7, 4, 5])
    transition = random.dirichlet(np.ones(states + 1), (states, actions))[..., :-1]
    model = FiniteMDP(transition, random.normal(size=(states, actions)), np.ones(states) / states)
    initiation = random.random((states, count)) < 0.6
    initiation[:, 0] = True
    policy = random.dirichlet(np.full(actions, 0.5), (states, count))
    termination = random.choice([0.0, 0.3, 1.0], (states, count))
    return model, OptionTables(initiation, policy, termination)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_planning_with_models_is_brute_force_over_steps(seed, gamma):
    model, options = random_case(seed)
    models = option_models(model, options, gamma=gamma)
    expected = brute_force(model, options, gamma)
    value, q = option_policy_iteration(models, options.initiation)
    iterated = value_iteration(models.transition, models.reward, available=options.initiation)
    able = options.initiation
    assert q[able] == pytest.approx(expected[able], abs=1e-8)
    assert iterated[able] == pytest.approx(expected[able], abs=1e-8)
    assert value == pytest.approx(np.where(able, expected, -np.inf).max(1), abs=1e-8)


@pytest.mark.parametrize("gamma", [0.9, 0.99])
def test_hallway_options_reach_the_exact_solution_of_four_rooms(gamma):
    """Pitfall 13: with slips, to 1e-6; and with primitives among them that of four rooms itself."""
    rooms = FourRooms()
    env, model = NumpyEnv(rooms), rooms.model()
    for options in (hallway_options(rooms), [*hallway_options(rooms), *primitives(env)]):
        tables = Options(options, env).tables()
        models = option_models(model, tables, gamma=gamma)
        value, q = option_policy_iteration(models, tables.initiation)
        expected = brute_force(model, tables, gamma)
        assert np.abs(q - expected)[tables.initiation].max() < 1e-6
    flat = value_iteration(model.transition, model.reward, gamma=gamma).max(1)
    assert np.abs(value - flat).max() < 1e-6


def test_models_are_what_simulation_shows():
    env, gamma = walk(), 0.9
    options = Options(drawing_options(), env)
    models = option_models(Walk().model(), options.tables(), gamma=gamma)
    over, start = OptionEnv(env, options.options, gamma=gamma), 3
    rewards, ends = [], np.zeros(8)
    over.reset(seed=0)
    for _ in range(1000):
        over.reset()
        env.unwrapped._state["cell"][:] = start  # pyright: ignore[reportAttributeAccessIssue]
        over._observation, over._mask = start, over.options.starts(start)
        state, reward, terminated, _, info = over.step(0)
        rewards.append(reward)
        ends[state] += (not terminated) * info["discount"] / 1000
    assert np.mean(rewards) == pytest.approx(models.reward[start, 0], abs=4 * np.std(rewards) / 1000**0.5)
    assert ends == pytest.approx(models.transition[start, 0], abs=0.06)


def test_a_primitive_is_its_action():
    model = Walk().model()
    models = option_models(model, Options(primitives(walk()), walk()).tables(), gamma=0.9)
    assert models.transition == pytest.approx(0.9 * model.transition)
    assert models.reward == pytest.approx(model.reward)


def test_a_mixed_policy_is_the_mixture_of_values():
    options = Options(run_options(), walk()).tables()
    models = option_models(Walk().model(), options, gamma=0.9)
    policy = options.initiation / options.initiation.sum(1, keepdims=True)
    value, q = evaluate_options(models, policy)
    assert value == pytest.approx((policy * q).sum(1))
    assert q == pytest.approx(models.reward + models.transition @ value)
    best, _ = option_policy_iteration(models, options.initiation)
    assert (best >= value - 1e-12).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_policy_that_goes_on_forever_raises_also_where_rounding_hides_it(seed):
    rng = np.random.default_rng(seed)
    transition = rng.random((7, 1, 7))
    models = OptionModels(transition / transition.sum(2, keepdims=True), rng.normal(size=(7, 1)))
    with pytest.raises(ValueError, match="`policy` must come to an end"):
        evaluate_options(models, np.ones((7, 1)))


def test_an_option_that_never_ends_has_a_model_with_a_discount_and_raises_without():
    """Bad input of the issue."""
    left = Option(policy=np.zeros(8, int), termination=np.zeros(8))
    tables = Options([left], walk()).tables()
    model = Walk(slip=0).model()
    models = option_models(model, tables, gamma=0.9)
    assert models.reward[0, 0] == pytest.approx(Walk().reward[0] / (1 - 0.9))
    assert not models.transition.any()
    with pytest.raises(ValueError, match="option 0, which may go on forever"):
        option_models(model, tables, gamma=1.0)


def test_rows_that_no_option_reaches_are_left_out():
    right = Option(policy=np.ones(8, int), termination=np.arange(8) == 5, initiation=np.arange(8) == 3)
    back = Option(policy=np.zeros(8, int), termination=np.ones(8))
    models = option_models(Walk(slip=0).model(), Options([right, back], walk()).tables(), gamma=1.0)
    assert np.flatnonzero(models.reward[:, 0]).tolist() == [3, 4]
    assert models.transition[3, 0, 5] == 1


def test_no_option_can_start_and_the_state_is_printed():
    right = Option(policy=np.ones(8, int), termination=np.arange(8) == 5, initiation=np.arange(8) < 5)
    with pytest.raises(ValueError, match="none for the state 5"):
        option_models(Walk(slip=0).model(), Options([right], walk()).tables(), gamma=0.9)


def test_misuse():
    tables = Options(run_options(), walk()).tables()
    with pytest.raises(ValueError, match="`options` must be of 9 states and 2 actions"):
        option_models(Walk(9).model(), tables, gamma=0.9)
    with pytest.raises(ValueError, match="`gamma` must lie"):
        option_models(Walk().model(), tables, gamma=1.5)
    models = option_models(Walk().model(), tables, gamma=0.9)
    with pytest.raises(ValueError, match=r"`policy` must have the shape \(8, 5\)"):
        evaluate_options(models, np.ones((8, 2)))
    forever = option_models(Walk(slip=0).model(), tables, gamma=1.0)
    with pytest.raises(ValueError, match="`policy` must come to an end"):
        evaluate_options(forever, np.eye(5)[np.full(8, 3)])

"""Options that are given up: never worse, by exact evaluation, and the same in tables and functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_option_models import random_case
from walk import run_options, walk

from athena_core.environments import NumpyEnv
from athena_hrl import (
    FourRooms,
    Option,
    OptionEnv,
    Options,
    OptionTables,
    evaluate_options,
    hallway_options,
    interrupted,
    option_models,
    option_policy_iteration,
)


def as_options(tables: OptionTables) -> Options:
    states, count, actions = tables.policy.shape

    class Env:
        from gymnasium import spaces

        observation_space, action_space = spaces.Discrete(states), spaces.Discrete(actions)

    return Options(
        [
            Option(
                policy=tables.policy[:, o],
                termination=tables.termination[:, o],
                initiation=tables.initiation[:, o],
            )
            for o in range(count)
        ],
        Env,
    )


@given(st.integers(0, 10**6), st.booleans())
def test_interruption_is_never_worse_and_better_where_it_happens(seed, greedy):
    """Theorem 2 of Sutton, Precup and Singh, exactly, for a greedy and for a drawn policy over options."""
    model, tables = random_case(seed)
    options = as_options(tables)
    models = option_models(model, tables, gamma=0.9)
    policy = np.where(tables.initiation, np.random.default_rng(seed).random(tables.initiation.shape), 0)
    policy /= policy.sum(1, keepdims=True)
    value, q = (
        option_policy_iteration(models, tables.initiation) if greedy else evaluate_options(models, policy)
    )
    if greedy:
        policy = np.eye(q.shape[1])[np.where(tables.initiation, q, -np.inf).argmax(1)]
    reached = np.where(models.reward != 0, q, np.nan)  # rows that no option reaches have no value
    after = Options(interrupted(options, reached, values=value), options).tables()
    better, _ = evaluate_options(option_models(model, after, gamma=0.9), policy)
    assert (better >= value - 1e-9).all()
    assert after.policy == pytest.approx(tables.policy)
    assert (after.initiation == tables.initiation).all()
    ended = after.termination > tables.termination
    if greedy:
        same = interrupted(options, reached)
        assert (np.stack([one.termination for one in same], 1) == after.termination).all()  # pyright: ignore[reportArgumentType, reportCallIssue, reportIndexIssue]
    # What can be ended on the way is better by that: one step before, where the policy takes the option.
    before = np.einsum("soa,sat->sot", tables.policy, model.transition)
    happens = np.einsum("sot,to->so", before, ended) * (policy > 0)
    gain = np.einsum("sot,to->so", before, ended * (value[:, None] - np.nan_to_num(reached)))
    assert (better - value)[(happens * gain > 1e-6).any(1)].min(initial=1) > 0


def test_giving_up_at_the_hallway_helps_where_options_run_past_it():
    """A landmark: options that run on to the wall are worth more if they stop where the way turns."""
    rooms = FourRooms()
    env = NumpyEnv(rooms)
    far = [
        Option(
            policy=np.full(104, action),
            termination=rooms.next_state[:, action] == np.arange(104),
            name=str(action),
        )
        for action in range(4)
    ]
    tables = Options(far, env).tables()
    models = option_models(rooms.model(), tables, gamma=0.9)
    value, q = option_policy_iteration(models, tables.initiation)
    policy = np.eye(4)[q.argmax(1)]
    options = interrupted(Options(far, env), q, values=value)
    better, _ = evaluate_options(
        option_models(rooms.model(), Options(options, env).tables(), gamma=0.9), policy
    )
    assert (better >= value - 1e-12).all()
    assert (better > value + 1e-3).any()
    assert [option.name for option in options] == list("0123")


@pytest.mark.parametrize("seed", range(5))
def test_functions_end_where_tables_do(seed):
    options = Options(run_options(), walk())
    q = np.random.default_rng(seed).normal(size=(8, 5))
    q[7, 0] = 9  # the best, where it cannot start
    q[3, 0] = np.nan
    tables = interrupted(options, q)
    functions = interrupted(options, lambda state: q[state])
    for state in range(8):
        for one, other in zip(tables, functions, strict=True):
            assert float(one.termination[state]) == float(other.termination(state))  # pyright: ignore[reportArgumentType, reportCallIssue, reportIndexIssue]
    assert float(tables[0].termination[3]) == float(run_options()[0].termination[3])  # pyright: ignore[reportArgumentType, reportCallIssue, reportIndexIssue]


def test_unknown_values_interrupt_nothing():
    rooms = FourRooms()
    options = Options(hallway_options(rooms), NumpyEnv(rooms))
    q = np.zeros((104, 8))
    q[:, 0] = 1
    before = options.tables()
    known = np.where(before.initiation, q, -np.inf)
    after = Options(interrupted(options, known), NumpyEnv(rooms)).tables()
    assert (after.termination[~before.initiation] == before.termination[~before.initiation]).all()


def test_an_interrupted_option_runs():
    options = run_options()
    q = np.zeros((8, 5))
    q[5, 1] = 1
    env = OptionEnv(walk(slip=0), interrupted(Options(options, walk()), q))
    while env.reset()[0] not in (2, 3):
        pass
    state, *_ = env.step(0)
    assert state == 5, "the option to the right was to go on to cell 6"


def test_misuse():
    options = Options(run_options(), walk())
    with pytest.raises(ValueError, match=r"`q` must have the shape \(8, 5\); got \(8, 2\)"):
        interrupted(options, np.zeros((8, 2)))
    with pytest.raises(ValueError, match=r"`values` must have the shape \(8,\)"):
        interrupted(options, np.zeros((8, 5)), values=np.zeros(3))
    with pytest.raises(ValueError, match="`values` must be left out"):
        interrupted(options, lambda state: np.zeros(5), values=np.zeros(8))

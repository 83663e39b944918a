"""Options: their three kinds of parts agree, and what does not belong to an environment is refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from walk import as_functions, drawing_options, run_options, walk, walks

from athena_hrl import Option, Options, primitives

CELLS = 8
STATES = np.arange(CELLS)


class Table(nn.Module):
    """A table as a network of the number of a state."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.as_tensor(np.asarray(table, dtype=np.float32)))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.table[state]


def as_networks(options: list[Option]) -> list[Option]:
    def network(table: Any) -> Any:
        return None if table is None else Table(table)

    return [
        Option(
            policy=network(np.eye(2)[option.policy] if option.policy.ndim == 1 else option.policy),  # pyright: ignore[reportArgumentType]
            termination=network(option.termination),
            initiation=network(option.initiation),
        )
        for option in options
    ]


@pytest.mark.parametrize("kind", [as_functions, as_networks])
@pytest.mark.parametrize("made", [run_options, drawing_options])
def test_tables_functions_and_networks_are_the_same_options(made, kind):
    env, random = walk(), np.random.default_rng(0)
    tables, others = Options(made(), env), Options(kind(made()), env)
    assert tables.stochastic == (made is drawing_options)
    assert others.stochastic
    count = len(tables)
    states, option = (part.ravel() for part in np.meshgrid(STATES, np.arange(count)))
    assert (tables.available(states) == others.available(states)).all()
    for _ in range(20):
        uniform = random.random(len(states))
        acts = tables.act(states, option, uniform=uniform)
        ends = tables.terminates(states, option, uniform=uniform)
        assert (acts == others.act(states, option, uniform=uniform)).all()
        assert (ends == others.terminates(states, option, uniform=uniform)).all()
        for options in (tables, others):
            for i, (state, o) in enumerate(zip(states, option, strict=True)):
                one = uniform[i : i + 1]
                assert options.action(state, int(o), uniform=one) == acts[i]
                assert options.ends(state, int(o), uniform=one) == ends[i]
    for state in STATES:
        assert (tables.starts(state) == tables.available(states[:CELLS])[state]).all()
        assert (others.starts(state) == tables.starts(state)).all()
    for one, other in zip(tables.tables(), others.tables(), strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_without_draws_no_numbers_are_needed_and_with_them_they_are():
    env = walk()
    assert Options(run_options(), env).act(np.array([3]), np.array([0])).tolist() == [1]
    for options in (Options(drawing_options(), env), Options(as_functions(drawing_options()), env)):
        with pytest.raises(ValueError, match="`uniform` must hold"):
            options.act(np.array([3]), np.array([0]))
        with pytest.raises(ValueError, match="`uniform` must hold"):
            options.terminates(np.array([3]), np.array([0]))


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda p: sum(p) > 0.1),
    st.floats(0, 1, exclude_max=True),
)
def test_an_action_without_a_chance_is_never_drawn(weights, uniform):
    chances = np.array(weights) / np.sum(weights)
    env = gym.make("FrozenLake-v1")
    env.action_space = spaces.Discrete(len(weights))
    option = Option(policy=np.tile(chances, (16, 1)), termination=np.ones(16))
    drawn = Options([option], env).act(np.array([5]), np.array([0]), uniform=np.array([uniform]))[0]
    assert chances[drawn] > 0
    assert chances[:drawn].sum() <= uniform + 1e-12
    assert uniform < chances[: drawn + 1].sum() + 1e-9


def test_draws_have_their_chances():
    options = Options(drawing_options(), walk())
    uniform = np.random.default_rng(0).random(20_000)
    states, option = np.full(20_000, 2), np.zeros(20_000, int)
    assert options.act(states, option, uniform=uniform).mean() == pytest.approx(0.7, abs=0.02)
    assert options.terminates(states, option, uniform=uniform).mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("option", run_options())
def test_no_rows_and_one_row(option):
    options = Options([option], walk())
    none = np.zeros(0, dtype=np.int64)
    assert options.available(none).shape == (0, 1)
    assert options.act(none, none).shape == options.terminates(none, none).shape == (0,)
    assert options.act(STATES[::4], np.zeros(2, int)).shape == (2,)


def test_observations_and_actions_of_any_space():
    space = spaces.Dict({"place": spaces.Box(-1, 1, (2,)), "room": spaces.Discrete(3)})
    env = gym.Env()
    env.observation_space, env.action_space = space, spaces.Box(-2, 2, (1,))

    class Sum(nn.Module):
        def forward(self, observation: Any) -> torch.Tensor:
            return observation["place"].sum(-1, keepdim=True)

    toward = Option(
        policy=Sum(), termination=lambda seen: seen["room"] == 2, initiation=lambda seen: seen["room"] > 0
    )
    options = Options([toward], env)
    batch = {"place": np.array([[0.5, 0.25], [0.0, 1.0]], np.float32), "room": np.array([0, 2])}
    option, uniform = np.zeros(2, int), np.zeros(2)
    assert options.act(batch, option, uniform=uniform).tolist() == [[0.75], [1.0]]
    assert options.terminates(batch, option, uniform=uniform).tolist() == [False, True]
    assert options.available(batch).tolist() == [[False], [True]]
    seen = {"place": batch["place"][0], "room": 0}
    assert options.action(seen, 0, uniform=uniform[:1]).tolist() == [0.75]
    assert not options.starts(seen).any()
    with pytest.raises(ValueError, match="observations that are Discrete from 0"):
        options.tables()


def test_a_network_of_another_precision_gets_its_own():
    env = gym.make("CartPole-v1")
    network = nn.Sequential(nn.Linear(4, 2), nn.Softmax(-1)).double()
    options = Options([Option(policy=network, termination=lambda seen: False)], env)
    batch = np.zeros((3, 4), np.float32)
    acts = options.act(batch, np.zeros(3, int), uniform=np.array([0.0, 0.5, 0.99]))
    assert acts[0] == 0
    assert acts[2] == 1


def test_primitives_take_their_action_once_from_anywhere():
    for env in (walk(), walks(2), gym.make("CartPole-v1")):
        assert len(primitives(env)) == 2
    options = Options(primitives(walk()), walk())
    assert not options.stochastic
    assert options.everywhere
    assert options.available(STATES).all()
    for action in (0, 1):
        rows = np.full(CELLS, action)
        assert (options.act(STATES, rows) == action).all()
        assert options.terminates(STATES, rows).all()
    shifted = gym.make("CartPole-v1")
    shifted.action_space = spaces.Discrete(2, start=5)
    assert [Options(primitives(shifted), shifted).action(0, o, uniform=np.zeros(1)) for o in (0, 1)] == [5, 6]
    with pytest.raises(ValueError, match="`env` must have Discrete actions"):
        primitives(gym.make("Pendulum-v1"))


ONE, ENDS = np.zeros(CELLS, int), np.ones(CELLS)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (
            Option(policy=np.zeros(5, int), termination=ENDS),
            "`policy` of option 0 must be a table of 8 states",
        ),
        (Option(policy=ONE, termination=np.ones(9)), "`termination` of option 0 must be a table of 8 states"),
        (
            Option(policy=ONE, termination=ENDS, initiation=np.ones(3), name="go"),
            "`initiation` of option 0 'go'",
        ),
        (Option(policy=np.full(CELLS, 2), termination=ENDS), "`policy` must give an action of Discrete"),
        (
            Option(policy=np.full((CELLS, 3), 1 / 3), termination=ENDS),
            "`policy` must give an action of Discrete",
        ),
        (Option(policy=np.full((CELLS, 2), 0.4), termination=ENDS), "or a probability for each"),
        (Option(policy=np.full((CELLS, 2), np.nan), termination=ENDS), "or a probability for each"),
        (Option(policy=ONE, termination=np.full(CELLS, 1.5)), "must give a probability"),
        (
            Option(policy=ONE, termination=ENDS, initiation=ENDS / 2),
            "`initiation` of option 0 must hold bools",
        ),
        (Option(policy=ONE, termination=np.full(CELLS, np.nan)), "must give a probability"),
        (Option(policy=ONE, termination=np.ones((CELLS, 1))), "must be a table of 8 states"),
    ],
)
def test_options_of_another_environment(option, says):
    """Bad input of the issue: tables that do not fit are refused before anything runs."""
    with pytest.raises(ValueError, match=says):
        Options([option], walk())


def test_functions_of_another_environment():
    """Bad input of the issue: what functions give is refused in use."""
    wrong = Options([Option(policy=lambda state: 7, termination=lambda state: 2.0)], walk())
    zero, uniform = np.zeros(1, int), np.zeros(1)
    for call in (lambda: wrong.act(zero, zero, uniform=uniform), lambda: wrong.action(0, 0, uniform=uniform)):
        with pytest.raises(ValueError, match="Take options of this environment"):
            call()
    for call in (
        lambda: wrong.terminates(zero, zero, uniform=uniform),
        lambda: wrong.ends(0, 0, uniform=uniform),
    ):
        with pytest.raises(ValueError, match="must give a probability"):
            call()


def test_tables_need_discrete_states_from_0():
    for env in (gym.make("CartPole-v1"), gym.make("FrozenLake-v1")):
        if isinstance(env.observation_space, spaces.Discrete):
            env.observation_space = spaces.Discrete(16, start=1)
        with pytest.raises(ValueError, match="tables need states that are Discrete from 0"):
            Options([Option(policy=np.zeros(16, int), termination=lambda seen: True)], env)


@pytest.mark.parametrize("form", [list, as_functions])
def test_nothing_is_drawn_that_has_no_chance(form):
    """The lowest number that is drawn is 0."""
    policy, beta = np.tile([0.0, 1.0], (CELLS, 1)), np.where(STATES == 1, 0.5, 0.0)
    options = Options(form([Option(policy=policy, termination=beta)]), walk())
    cells, option, zero = np.array([0, 1]), np.zeros(2, int), np.zeros(2)
    assert options.act(cells, option, uniform=zero).tolist() == [1, 1]
    assert options.terminates(cells, option, uniform=zero).tolist() == [False, True]
    assert [options.ends(cell, 0, uniform=zero[:1]) for cell in (0, 1)] == [False, True]


def test_a_function_without_a_return_is_named():
    def at_the_end(place):
        place == CELLS - 1  # noqa: B015  # what was forgotten

    option = Option(policy=at_the_end, termination=at_the_end, initiation=at_the_end)
    options, zero, uniform = Options([option], walk()), np.zeros(1, int), np.zeros(1)
    for ask in (
        lambda: options.starts(0),
        lambda: options.available(zero),
        lambda: options.action(0, 0, uniform=uniform),
        lambda: options.terminates(zero, zero, uniform=uniform),
    ):
        with pytest.raises(ValueError, match=r"option, 'at_the_end', must return a value; got None"):
            ask()


def test_misuse():
    with pytest.raises(TypeError, match=r"`options` must be of `Option`; got 1. For actions add"):
        Options([primitives(walk())[0], 1], walk())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`options` must hold at least one"):
        Options([], walk())
    with pytest.raises(ValueError, match="`max_duration` must be at least 1"):
        Option(policy=ONE, termination=ENDS, max_duration=0)
    with pytest.raises(TypeError, match="`policy` must be a function of an observation, an array"):
        Option(policy=[0, 1], termination=ENDS)  # pyright: ignore[reportArgumentType]


def test_tensors_are_tables():
    option = Option(
        policy=torch.zeros(CELLS, dtype=torch.int64), termination=torch.ones(CELLS, requires_grad=True)
    )
    assert not Options([option], walk()).stochastic

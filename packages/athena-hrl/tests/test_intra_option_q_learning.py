"""Learning about all options from each step: the update by hand, four rooms, draws, misuse."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from test_option_models import brute_force
from walk import LEFT, RIGHT, Walk, drawing_options, run_options, walk

from athena_core import load_checkpoint, save_checkpoint
from athena_core.environments import NumpyEnv
from athena_hrl import (
    FourRooms,
    IntraOptionQLearning,
    Option,
    OptionEnv,
    SMDPQLearning,
    hallway_options,
    option_models,
    option_policy_iteration,
    primitives,
    value_on_arrival,
)


def test_the_value_on_arrival_by_hand():
    """Pitfall 12: U = (1 - beta) Q + beta max Q, the maximum over what can start."""
    u = value_on_arrival([2.0, 10.0, 6.0], [0.25, 0.0, 1.0], [True, False, True])
    assert u.tolist() == [0.75 * 2 + 0.25 * 6, 10.0, 6.0]
    assert value_on_arrival([2.0, 3.0], [0.0, 1.0], [False, False]).tolist() == [2.0, -np.inf]
    assert value_on_arrival(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros((0, 2), bool)).shape == (0, 2)


def test_every_option_consistent_with_the_action_is_updated_and_no_other():
    """Pitfall 12."""
    agent = IntraOptionQLearning(walk(), run_options(), gamma=0.5, step_size=1.0)
    agent.q[:] = np.arange(40.0).reshape(8, 5)
    before = agent.q.copy()
    agent.update(2, 4, RIGHT, 3.0, 3, terminated=False)
    best = before[3].max()  # all can start in cell 3
    assert agent.q[2, 0] == 3 + 0.5 * before[3, 0]  # goes on, to the right
    assert agent.q[2, 2] == 3 + 0.5 * before[3, 2]  # goes on, to the middle
    assert agent.q[2, 4] == 3 + 0.5 * best  # the primitive ends
    assert (agent.q[2, [1, 3]] == before[2, [1, 3]]).all()  # these would have gone to the left
    agent.update(2, 4, RIGHT, 3.0, 3, terminated=True)
    assert agent.q[2, [0, 2, 4]].tolist() == [3, 3, 3]
    assert agent.visits[2].tolist() == [2, 0, 2, 0, 2]


def test_policies_that_draw_are_weighed_by_their_chances():
    agent = IntraOptionQLearning(walk(), drawing_options(), gamma=0.5, step_size=0.5)
    agent.update(2, 3, LEFT, 1.0, 1, terminated=True)  # the primitive, of chance 1
    assert agent.q[2].tolist() == pytest.approx([0.5 * 0.3, 0.5, 0, 0.5, 0])
    agent.q[:] = 0
    agent.update(2, 0, LEFT, 1.0, 1, terminated=True)  # of chance 0.3
    assert agent.q[2].tolist() == pytest.approx([0.5, 1.0, 0, 1.0, 0])


def test_primitives_alone_are_q_learning_step_for_step():
    settings = {"gamma": 0.9, "step_size": 0.3, "epsilon": 0.4, "seed": 3}
    one = IntraOptionQLearning(walk(limit=9), primitives(walk()), **settings).learn(2000)
    other = SMDPQLearning(walk(limit=9), **settings).learn(2000)
    assert (one.q == other.q).all()
    assert one.steps == other.steps == 2000


def test_hallway_options_reach_the_exact_solution_of_four_rooms():
    """Pitfall 13, from single steps, also of options where they cannot start."""
    rooms = FourRooms(slip=0)
    env = NumpyEnv(rooms)
    agent = IntraOptionQLearning(env, [*hallway_options(rooms), *primitives(env)], gamma=0.9, step_size=1.0)
    for _ in range(40):
        for state in range(104):
            for action in range(4):
                after = int(rooms.next_state[state, action])
                reached = after == rooms.goal
                agent.update(state, 8 + action, action, float(reached), after, terminated=reached)
    models = option_models(rooms.model(), agent.tables, gamma=0.9)
    value, q = option_policy_iteration(models, agent.tables.initiation)
    assert np.abs(agent.q - q)[agent.tables.initiation].max() < 1e-6
    assert value == pytest.approx(np.where(agent.tables.initiation, agent.q, -np.inf).max(1), abs=1e-6)
    greedy = agent.learn(2000)  # and with it the shortest ways
    assert np.abs(greedy.q - q)[agent.tables.initiation].max() < 1e-6


def test_an_option_that_is_never_carried_out_is_learned():
    env = walk(slip=0)
    never = Option(policy=np.ones(8, int), termination=np.zeros(8), initiation=np.zeros(8))
    agent = IntraOptionQLearning(env, [never, *primitives(env)], gamma=0.9, step_size=1.0, epsilon=1.0).learn(
        3000
    )
    expected = brute_force(Walk(slip=0).model(), agent.tables, 0.9)
    assert agent.q[:7, 0] == pytest.approx(expected[:7, 0], abs=1e-9)


def test_steps_with_slips_come_near_the_solution():
    agent = IntraOptionQLearning(
        walk(),
        drawing_options(),
        gamma=0.9,
        step_size=lambda visits: max(1 / visits**0.7, 0.002),
        epsilon=1.0,
    ).learn(8_000)
    expected = brute_force(Walk().model(), agent.tables, 0.9)
    assert np.abs(agent.q - expected)[:7].max() < 0.4


def test_an_option_that_never_ends_is_ended_and_warned_of_once():
    """Bad input of the issue."""
    left = Option(policy=np.zeros(8, int), termination=np.zeros(8), max_duration=3, name="stuck")
    agent = IntraOptionQLearning(walk(slip=0), [left], gamma=0.9)
    with pytest.warns(
        RuntimeWarning, match="option 0 'stuck' was ended after its `max_duration` of 3"
    ) as caught:
        agent.learn(20)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.learn(20)


def test_no_option_can_start_and_the_state_is_printed():
    right = Option(policy=np.ones(8, int), termination=np.arange(8) == 5, initiation=np.arange(8) < 5)
    with pytest.raises(ValueError, match="none for the state"):
        IntraOptionQLearning(walk(slip=0), [right], gamma=0.9).learn(100)


def test_learning_can_be_saved_and_goes_on(tmp_path):
    def agent() -> IntraOptionQLearning:
        return IntraOptionQLearning(walk(limit=20), drawing_options(), epsilon=0.3)

    one, other = agent().learn(300), agent()
    save_checkpoint(tmp_path / "agent.pt", one.state_dict())
    other.load_state_dict(load_checkpoint(tmp_path / "agent.pt"))
    assert (one.q == other.q).all()
    assert (one.visits == other.visits).all()
    assert one.steps == other.steps
    assert [one.act(2) for _ in range(50)] == [other.act(2) for _ in range(50)]
    with pytest.raises(ValueError, match=r"tables of the shape \(8, 2\)"):
        IntraOptionQLearning(walk(), primitives(walk())).load_state_dict(one.state_dict())


def test_misuse():
    with pytest.raises(ValueError, match="`gamma` must lie"):
        IntraOptionQLearning(walk(), run_options(), gamma=-1)
    with pytest.raises(ValueError, match="`step_size` must lie"):
        IntraOptionQLearning(walk(), run_options(), step_size=2)
    with pytest.raises(ValueError, match="`env` must take single steps"):
        IntraOptionQLearning(OptionEnv(walk(), run_options()), run_options())
    with pytest.raises(ValueError, match="Take options of this environment"):
        IntraOptionQLearning(walk(9), run_options())

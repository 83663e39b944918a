"""The three-part decomposition: hand-worked, HAMQ-learning in sum, and parts against their definitions."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_mdp import ModelEnv, corridor

from athena_hrl import (
    HAM,
    ALispQLearning,
    ChoiceGraph,
    ChoicePoint,
    HAMQLearning,
    Relevance,
    act,
    call,
    choose,
    expected_return,
    part_targets,
    value_iteration,
)

LAST = 6


def step_once(machine):
    yield act((yield choose("way", range(2))))


def walk(machine, goal):
    while machine.state != goal:
        if goal == 3 and machine.state == 1:
            yield call(step_once)  # a call without a choice of its own before it
        else:
            yield act((yield choose("way", range(2))))
    return (yield choose("result", range(2)))


def trip(machine):
    yield act(0)
    goal = yield choose("goal", (3, LAST))
    result = yield call(walk, goal)
    yield act(result)
    yield call(walk, LAST)


def root(machine):
    if (yield choose("how", range(3))):
        yield call(trip)
    yield act(1)
    yield act(2)


def test_without_abstraction_it_is_hamq_update_by_update() -> None:
    """Along its way, a table of HAMQ's has the sums of the parts: nested, deep, idle and restarted calls."""
    agent = ALispQLearning(
        ModelEnv(corridor(slip=0.3)), HAM(root), gamma=0.9, step_size=0.3, epsilon=0.5, seed=1
    )
    q: dict[tuple, list[float]] = {}

    def row(point):
        return q.setdefault((point.stack, point.label, point.state), [0.0] * len(point.options))

    inner, kinds = agent.smdp.choose, set()

    def watched(option):
        point = agent.smdp.stack.point
        segment = inner(option)
        target = segment.reward + (segment.discount * max(row(segment.point)) if segment.point else 0.0)
        row(point)[option] += 0.3 * (target - row(point)[option])
        after = len(segment.point.stack) - len(point.stack) if segment.point else None
        kinds.add((after, agent._ledger.open - len(point.stack), segment.duration > 0))
        return segment

    agent.smdp.choose = watched
    agent.learn(5_000)
    # Deeper by one and by two calls, the same call, back by one, through the end of the root; without action.
    assert {(1, 0, True), (2, 0, False), (0, 0, True), (-1, -1, True), (1, 0, False)} <= kinds
    assert any(closed < -1 for _, closed, _ in kinds)
    points = 0
    for (stack, label, state), values in q.items():
        points += 1
        one = ChoicePoint(stack, label, range(len(values)), state)
        np.testing.assert_allclose(agent.q(one), values, atol=1e-9)
        np.testing.assert_allclose(agent.parts(one).sum(1), values, atol=1e-9)
    assert points > 25


def simple_walk(machine, goal):
    while machine.state != goal:
        yield act((yield choose("way", range(2))))


def simple_root(machine):
    goal = LAST
    if machine.state != 3:
        goal = yield choose("goal", (3, LAST))
    yield call(simple_walk, goal)
    if machine.state == LAST:
        yield act(2)


ABSTRACTION = {
    "way": Relevance(
        reward=lambda point, option: "a step",
        completion=lambda point, option: (point.state, point.stack[-1][2], option),
        exit=lambda point, option: point.stack[-1][2],
    )
}


@pytest.mark.parametrize("abstraction", [None, ABSTRACTION])
def test_reaches_the_optimum_and_what_hamq_learns(abstraction) -> None:
    model = corridor()
    optimum = model.start @ value_iteration(model.transition, model.reward).max(1)
    agent = ALispQLearning(
        ModelEnv(model), HAM(simple_root), gamma=1.0, epsilon=0.3, abstraction=abstraction, seed=2
    ).learn(10_000)
    earned = expected_return(model, ChoiceGraph(HAM(simple_root)).policy(agent.best), steps=100)
    assert earned == pytest.approx(optimum)
    hamq = HAMQLearning(ModelEnv(model), HAM(simple_root), gamma=1.0, epsilon=0.3, seed=2).learn(10_000)

    def best(point: ChoicePoint) -> int:
        return int(np.argmax(hamq.values(hamq.key(point), len(point.options))))

    assert expected_return(model, ChoiceGraph(HAM(simple_root)).policy(best), steps=100) == pytest.approx(
        optimum
    )


def test_parts_are_what_they_are_called() -> None:
    """In a corridor without slips: from cell 0 to cell 3, then on to the end, where 10 are paid."""
    agent = ALispQLearning(ModelEnv(corridor()), HAM(simple_root), gamma=1.0, epsilon=0.3, seed=3)
    agent.learn(20_000)
    point = next_choice("way", goal=3, cell=0)
    # The step costs 1, the two that complete the walk 2, and then 3 steps to the end, which pays 10.
    np.testing.assert_allclose(agent.parts(point)[1], [-1, -2, -3 + 10], atol=1e-6)
    start = next_choice("goal", goal=None, cell=0)
    # Choosing the middle: the walk costs 3; nothing completes the root's run; then it starts again.
    np.testing.assert_allclose(agent.parts(start), [[-3, 0, 7], [-6, 10, 0]], atol=1e-6)


def next_choice(label, *, goal, cell):
    outer = (("", "simple_root", ()),)
    if goal is None:
        return ChoicePoint(outer, label, (3, LAST), cell)
    return ChoicePoint((*outer, ("", "simple_walk", (goal,))), label, range(2), cell)


def test_abstraction_needs_fewer_values() -> None:
    whole, abstract = (
        ALispQLearning(ModelEnv(corridor()), HAM(simple_root), gamma=1.0, abstraction=one).learn(3_000)
        for one in (None, ABSTRACTION)
    )
    assert abstract.n_values < 0.6 * whole.n_values


@given(
    st.integers(0, 4),
    st.integers(0, 4),
    st.lists(st.floats(-9, 9), min_size=14, max_size=14),
    st.floats(0, 1),
    st.booleans(),
    st.data(),
)
def test_targets_sum_to_hamqs(depth, next_depth, numbers, discount, doing, data) -> None:
    open_calls = data.draw(st.integers(0, min(depth, next_depth) + 1))
    if open_calls == depth + 1 and next_depth == depth:
        doing = False
    sums, following = numbers[: depth + 3], numbers[depth + 3 : depth + next_depth + 6]
    targets = part_targets(sums, following, discount=discount, open_calls=open_calls, doing=doing)
    assert sum(targets) == pytest.approx(sum(sums) + discount * sum(following), abs=1e-9)
    assert part_targets(sums, None, discount=discount, open_calls=open_calls, doing=doing) == sums


def test_hand_worked_targets() -> None:
    # Chosen at depth 1; both calls have returned to the root, at depth 0, which chooses next: what it does
    # and completes belongs to the part between depths 1 and 0, what comes after the root to the last.
    targets = part_targets([1, 2, 4, 0], [10, 20, 40], discount=0.5, open_calls=1, doing=False)
    assert targets == [1, 2, 4 + 0.5 * 30, 0.5 * 40]
    # The root itself has returned, and the new one chooses: all of it comes after the root.
    targets = part_targets([1, 2, 4, 8], [10, 20, 40], discount=0.5, open_calls=0, doing=False)
    assert targets == [1, 2, 4, 8 + 0.5 * 70]
    # The same machine chooses again.
    targets = part_targets([1, 0, 0, 0], [10, 20, 40, 80], discount=0.5, open_calls=2, doing=False)
    assert targets == [1, 15, 20, 40]


def test_a_loaded_agent_learns_the_same_from_a_new_episode() -> None:
    def made(seed):
        return ALispQLearning(ModelEnv(corridor(slip=0.3)), HAM(root), epsilon=0.3, seed=seed)

    agent, copies = made(3).learn(137), (made(4), made(4))
    for copy in copies:
        copy.load_state_dict(agent.state_dict())
        copy.learn(200)
    one, other = (copy.state_dict() for copy in copies)
    assert one["keys"] == other["keys"]
    assert (one["values"] == other["values"]).all()
    assert copies[0].steps >= 337


def test_cut_episodes_bootstrap_or_are_dropped() -> None:
    model = corridor()._replace(start=np.eye(7)[0])

    def made(limit, program=simple_root):
        env = gym.wrappers.TimeLimit(ModelEnv(model), limit)
        return ALispQLearning(env, HAM(program), gamma=0.5, step_size=1.0, epsilon=0.0)

    agent, cut = made(1_000).learn(300), made(2)
    cut.load_state_dict(agent.state_dict())
    cut.learn(2)  # cut in the midst of a call, whose next choice is worth what it was
    assert cut.dropped == 0
    assert cut.steps == agent.steps + 2
    assert (cut.state_dict()["values"] == agent.state_dict()["values"]).all()

    def two_steps(machine):
        action = yield choose("way", range(2))
        yield act(action)
        yield act(action)

    odd = made(3, two_steps).learn(3)
    assert odd.dropped == 1  # the machine would act before it chooses: nothing is known of the value there


def test_bad_input() -> None:
    env = ModelEnv(corridor())
    with pytest.raises(ValueError, match="`gamma`"):
        ALispQLearning(env, HAM(root), gamma=1.5)
    with pytest.raises(ValueError, match=r"`step_size` must lie in \[0, 1\]; got 2"):
        ALispQLearning(env, HAM(root), step_size=2)

    def fickle(machine, options=[2]):  # noqa: B006  # an outer variable, as a careless machine has
        options[0] += 1
        yield act((yield choose("way", range(options[0]))) % 3)

    with pytest.raises(ValueError, match="as many options whenever stack and state are the same"):
        ALispQLearning(env, HAM(fickle)).learn(100)

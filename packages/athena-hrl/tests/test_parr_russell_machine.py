"""Machines that know hallways, in the maze that abstract machines were first tried in."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from athena_core.environments import NumpyEnv
from athena_hrl import (
    HAM,
    HAMQLearning,
    InducedSMDP,
    ParrRussellMaze,
    act,
    choose,
    parr_russell_machine,
)


def maze(limit: int = 10_000, **options) -> TimeLimit:
    return TimeLimit(NumpyEnv(ParrRussellMaze(**options)), limit)


def flat(machine):
    yield act((yield choose("move", range(4))))


def test_it_learns_where_flat_q_learning_of_as_many_steps_does_not() -> None:
    returns = {}
    for name in ("machines", "flat"):
        env = maze(intersections=3)
        ham = parr_russell_machine(env.unwrapped.dynamics) if name == "machines" else HAM(flat)
        learner = HAMQLearning(
            env, ham, gamma=0.999, step_size=0.25, epsilon=lambda n: max(0.1, 1 - n / 8000)
        )
        learner.learn(12_000)
        returns[name] = learner.evaluate(maze(600, intersections=3), episodes=5).mean()
    assert returns["flat"] == -600
    assert returns["machines"] > -400


@pytest.mark.parametrize("slip", [0.0, 0.2, 0.9])
def test_machines_never_loop_or_bump_forever(slip: float) -> None:
    env = maze(3000, intersections=2, slip=slip)
    rules = env.unwrapped.dynamics
    smdp = InducedSMDP(env, parr_russell_machine(rules), gamma=1.0)
    random, labels = np.random.default_rng(0), set()
    segment = smdp.reset(seed=0)
    for _ in range(300):
        if segment.ended:
            segment = smdp.reset()
        view = segment.point.state
        labels.add(segment.point.label)
        if segment.point.label == "side":
            assert not any(view.blocked[side] for side in segment.point.options)
        else:
            assert all(rules.exits[rules.intersections[view.state], move] >= 0 for move in view.exits)
        segment = smdp.choose(int(random.integers(len(segment.point.options))))
        assert segment.duration >= 1
    assert labels == {"hallway", "side"}


def test_choices_are_met_in_few_states() -> None:
    env = maze(intersections=3, slip=0.0)
    rules = env.unwrapped.dynamics
    learner = HAMQLearning(env, parr_russell_machine(rules), epsilon=1.0).learn(8000)
    states = {state[0] for _, _, state in learner.q}
    assert len(states) < len(rules.cells) / 4

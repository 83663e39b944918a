"""Learners whose environment breaks in the midst of an episode, or pays what is no number."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from walk import Walk, run_options, walk, walks

from athena_core.environments import Advanced, NumpyVectorEnv
from athena_hrl import (
    HAM,
    MAXQ,
    ALispQLearning,
    HAMQLearning,
    IntraOptionQLearning,
    OptionEnv,
    OptionVectorEnv,
    SMDPQLearning,
    Subtask,
    TaskGraph,
    act,
    choose,
)


def root(machine):
    """Three steps one way."""
    way = yield choose("way", range(2))
    for _ in range(3):
        yield act(way)


class Breaking(gym.Wrapper):
    """Once, after so many steps, it is interrupted; then it wants a reset, as any environment might."""

    def __init__(self, env: Any, *, after: int) -> None:
        super().__init__(env)
        self.left, self.begun = after, False

    def reset(self, **options: Any) -> Any:
        self.begun = True
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        assert self.begun, "a step without a reset"
        self.left -= 1
        if self.left == 0:
            self.begun = False
            raise KeyboardInterrupt
        return super().step(action)


def graph() -> TaskGraph:
    right = Subtask("right", children=(0, 1), ended=lambda cell: cell >= 6)
    return TaskGraph(Subtask("root", children=(right, 1), ended=lambda cell: False), n_states=8, n_actions=2)


LEARNERS = {
    "SMDP": lambda env: SMDPQLearning(OptionEnv(env, run_options())),
    "flat": lambda env: SMDPQLearning(env, gamma=0.9),
    "intra-option": lambda env: IntraOptionQLearning(env, run_options()),
    "HAM": lambda env: HAMQLearning(env, HAM(root)),
    "ALisp": lambda env: ALispQLearning(env, HAM(root)),
    "MAXQ": lambda env: MAXQ(env, graph()),
}


@pytest.mark.parametrize("after", [1, 2, 5])
@pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)
def test_after_an_interrupt_learning_goes_on_with_a_new_episode(make: Any, after: int) -> None:
    learner = make(Breaking(walk(limit=20), after=after))
    with pytest.raises(KeyboardInterrupt):
        learner.learn(100)
    steps = learner.steps
    assert learner.learn(100).steps >= steps + 100


def test_what_was_earned_before_an_interrupt_is_of_no_other_episode() -> None:
    env = gym.wrappers.TransformReward(walk(limit=20), lambda reward: 1.0)
    learner = HAMQLearning(Breaking(env, after=9), HAM(root))
    with pytest.raises(KeyboardInterrupt):
        learner.learn(100)
    learner.learn(200)
    ends, returns = np.array(learner.episodes).T
    lost = np.diff(ends, prepend=0) - returns  # 1 a step
    assert lost.tolist() == [0, 3] + [0] * (len(lost) - 2)  # of the episode that was given up


def test_many_rows_go_on_too(monkeypatch: pytest.MonkeyPatch) -> None:
    env = OptionVectorEnv(walks(3, limit=20), run_options())
    learner = SMDPQLearning(env).learn(20)
    with monkeypatch.context() as patched:
        patched.setattr(NumpyVectorEnv, "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            learner.learn(20)
    resets = []
    monkeypatch.setattr(
        env, "reset", lambda **given: resets.append(given) or OptionVectorEnv.reset(env, **given)
    )
    learner.learn(100)
    assert resets == [{"seed": None}]


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)
def test_rewards_that_are_not_finite_raise_at_once(make: Any, bad: float) -> None:
    learner = make(gym.wrappers.TransformReward(walk(limit=20), lambda reward: bad))
    with pytest.raises(ValueError, match="rewards must be finite; got"):
        learner.learn(10)


def test_rows_with_rewards_that_are_not_finite_raise() -> None:
    class Lost(Walk):
        def advance(self, state: Any, action: Any) -> Advanced:
            return super().advance(state, action)._replace(reward=np.full(len(action), np.nan))

    env = OptionVectorEnv(NumpyVectorEnv(Lost(), 2), run_options())
    with pytest.raises(ValueError, match="rewards must be finite; got nan"):
        SMDPQLearning(env).learn(10)

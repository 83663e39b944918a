"""HAC's transitions worked by hand, pitfall 28, and its levels on a line."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from athena_hrl import (
    HAC,
    LevelStep,
    hindsight_action,
    hindsight_goals,
    level_transition,
    missed_subgoal,
    within,
)

NEAR = within(0.5)


class Walk(gym.Env[Any, Any]):
    """A point on a line from 0, its goal at 3; a step is at most 1. It may end early, by either."""

    def __init__(self, *, pit: float = -np.inf, limit: int = 30) -> None:
        place = spaces.Box(-5, 5, (1,), np.float32)
        names = "observation", "achieved_goal", "desired_goal"
        self.observation_space = spaces.Dict(dict.fromkeys(names, place))
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.pit, self.limit = pit, limit

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.count = 0.0, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = float(np.clip(self.place + action[0], -5, 5))
        self.count += 1
        fell = self.place < self.pit
        arrived = abs(self.place - 3) <= 0.5
        return self._observation(), -1.0, fell or arrived, self.count >= self.limit, {}

    def _observation(self) -> dict[str, np.ndarray]:
        place = np.array([self.place], dtype=np.float32)
        return {
            "observation": place,
            "achieved_goal": place.copy(),
            "desired_goal": np.array([3], np.float32),
        }


SMALL: dict[str, Any] = {"radius": 0.5, "horizon": 4, "td3": {"hidden": [8]}, "updates_per_episode": 1}


def step(to: float, action: float = 1.0, *, terminated: bool = False) -> LevelStep:
    there = np.array([to], dtype=np.float32)
    return LevelStep(np.zeros(1, np.float32), np.array([action], np.float32), there, there, terminated)


def test_pitfall_28_the_hindsight_action_is_the_place_that_was_achieved():
    made = hindsight_action(step(2.0, action=5.0), np.array([4.0]), gamma=0.9, achieved=NEAR)
    assert (made.action.tolist(), made.reward, made.discount) == ([2.0], -1.0, 0.9)
    made = hindsight_action(step(2.0, action=5.0), np.array([2.2]), gamma=0.9, achieved=NEAR)
    assert (made.action.tolist(), made.reward, made.discount) == ([2.0], 0.0, 0.0)


def test_pitfall_28_the_penalty_has_the_original_subgoal_and_discount_0():
    made = missed_subgoal(step(2.0, action=5.0), np.array([4.0]), horizon=7)
    assert (made.action.tolist(), made.reward, made.discount) == ([5.0], -7.0, 0.0)


def test_an_end_by_the_environment_has_no_future_whatever_the_goal():
    made = level_transition(step(2.0, terminated=True), np.array([4.0]), gamma=0.9, achieved=NEAR)
    assert (made.reward, made.discount) == (-1.0, 0.0)


def test_hindsight_goals_are_places_achieved_at_the_step_or_later():
    steps = [step(float(index + 1)) for index in range(4)]
    actions = [one.achieved for one in steps]
    made = hindsight_goals(
        steps, actions, gamma=0.9, achieved=NEAR, count=50, random=np.random.default_rng(0)
    )
    assert len(made) == 200
    for index in range(4):
        goals = {float(one.goal[0]) for one in made[50 * index : 50 * (index + 1)]}
        assert goals == {float(later) for later in range(index + 1, 5)}
    for one in made:
        reached = bool(one.goal[0] == one.next_state[0])
        assert (one.reward, one.discount) == ((0.0, 0.0) if reached else (-1.0, 0.9))
    assert hindsight_goals([], [], gamma=0.9, achieved=NEAR, count=3, random=np.random.default_rng(0)) == []


def rows(hac: HAC, level: int) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in hac.rings[level].rows().items()}


@pytest.mark.parametrize("levels", [2, 3])
def test_pitfall_28_only_tested_subgoals_are_penalised(levels):
    never = HAC(Walk(), levels=levels, test_share=0.0, **SMALL).learn(60)
    for level in range(levels):
        assert (rows(never, level)["reward"] >= -1).all()
    always = HAC(Walk(), levels=levels, test_share=1.0, **SMALL).learn(60)
    assert (rows(always, 0)["reward"] >= -1).all()  # actions are no subgoals
    for level in range(1, levels):
        penalised = rows(always, level)["reward"] == -4
        assert penalised.any()
        assert (rows(always, level)["discount"][penalised] == 0).all()
        # What a penalty speaks of was missed.
        left = np.abs(rows(always, level)["action"] - rows(always, level)["next_state"])[penalised]
        assert (left > 0.5).all()


def test_no_subgoal_is_penalised_whose_attempts_were_not_used_up():
    """Episodes of two steps cut every attempt of four short; falling, and the way's own goal, do so too."""
    for env in (Walk(limit=2), Walk(pit=-1e-3, limit=2)):
        cut = HAC(env, test_share=1.0, **SMALL).learn(60)
        assert (rows(cut, 1)["reward"] >= -1).all()


@pytest.mark.parametrize("levels", [2, 3])
def test_an_attempt_is_over_where_a_goal_of_a_level_above_is_achieved(levels):
    """The subgoals lie at -5 and the lowest level walks to 3, where the environment does not end."""

    class Endless(Walk):
        def step(self, action):
            observation, reward, _, truncated, info = super().step(action)
            return observation, reward, False, truncated, info

    hac = HAC(Endless(), levels=levels, test_share=1.0, **{**SMALL, "horizon": 9, "updates_per_episode": 0})
    hac._choose = lambda level, goal, testing: np.full(1, -5.0 if level else 1.0, np.float32)
    hac.learn(1)
    assert (hac.steps, hac.successes) == (3, 1)
    assert all((rows(hac, level)["reward"] >= -1).all() for level in range(levels))


def test_a_tested_level_acts_without_noise():
    """With all subgoals tested the lowest level's actions are the actor's own."""
    hac = HAC(
        Walk(), test_share=1.0, goals_per_step=0, noise=0.5, **{**SMALL, "updates_per_episode": 0}
    ).learn(20)
    stored = hac.rings[0].rows()
    torch.testing.assert_close(
        hac.learners[0].act(hac._input(stored["state"], stored["goal"])), stored["action"]
    )


def test_all_levels_below_a_tested_subgoal_are_tested():
    hac = HAC(Walk(), levels=3, test_share=0.0, goals_per_step=0, noise=0.5, random_share=1.0, **SMALL)
    hac._see(hac.env.reset(seed=0)[0])
    hac._terminated = hac._truncated = False
    hac._attempt(1, [np.full(1, -5, np.float32), np.full(1, 5, np.float32)], testing=True)
    stored = hac.rings[0].rows()
    torch.testing.assert_close(
        hac.learners[0].act(hac._input(stored["state"], stored["goal"])), stored["action"]
    )
    assert (rows(hac, 1)["reward"] == -4).any()


def test_levels_other_than_the_lowest_store_places_they_came_to_or_near():
    hac = HAC(Walk(), test_share=0.0, **SMALL).learn(60)
    stored = rows(hac, 1)
    assert (np.abs(stored["action"] - stored["next_state"]) <= 0.5).all()
    assert bool((hac.batch(1).action_t.abs() <= 1).all())


def test_termination_has_no_future_and_truncation_has():
    fallen = HAC(Walk(pit=-0.2), goals_per_step=0, test_share=0.0, **SMALL).learn(200)
    for level in range(2):
        stored = rows(fallen, level)
        over = stored["next_state"][:, 0] < -0.2
        assert over.any()
        assert (stored["discount"][over] == 0).all()
    cut = HAC(Walk(limit=2), goals_per_step=0, test_share=0.0, **SMALL).learn(40)
    stored = rows(cut, 1)
    missed = np.abs(stored["next_state"] - stored["goal"])[:, 0] > 0.5
    assert missed.any()
    assert (stored["discount"][missed] == np.float32(0.75)).all()


def test_predict_keeps_a_subgoal_until_it_is_reached_or_the_horizon_is_over():
    hac = HAC(Walk(), levels=3, **SMALL)
    env, memory, kept = Walk(), None, []
    observation, _ = env.reset()
    for _ in range(9):
        action, memory = hac.predict(observation, memory)
        assert hac.action_space.contains(action)
        kept.append(memory.subgoals[0].copy())
        observation = {
            **observation,
            "observation": np.array([-5.0], np.float32),
            "achieved_goal": np.array([9.0]),
        }
    assert all((kept[index] == kept[1]).all() for index in (1, 2, 3))
    assert memory.ages == [1, 3]


def test_it_learns_to_reach_a_goal_three_steps_away():
    td3 = {"hidden": [32], "actor_lr": 2e-3, "critic_lr": 3e-3}
    hac = HAC(Walk(), radius=0.5, horizon=4, td3=td3, batch_size=64, updates_per_episode=20, seed=2).learn(
        300
    )
    env, memory = Walk(), None
    observation, _ = env.reset()
    for _ in range(20):
        action, memory = hac.predict(observation, memory)
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break
    assert terminated
    assert hac.successes > hac.episodes / 2


def test_a_resumed_learner_equals_an_uninterrupted_one():
    whole, cut, resumed = (HAC(Walk(), seed=2, **SMALL) for _ in range(3))
    whole.learn(30).learn(30)
    resumed.load_state_dict(cut.learn(30).state_dict())
    resumed.learn(30)
    ours, theirs = (torch.utils._pytree.tree_leaves(one.state_dict()) for one in (whole, resumed))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 1}, "`levels` must be at least 2; got 1"),
        ({"horizon": 0}, "`horizon` must be at least 1"),
        ({"gamma": 2.0}, r"`gamma` must lie in \[0, 1\]"),
        ({"test_share": -1.0}, "`test_share` must lie"),
        ({"random_share": 1.5}, "`random_share` must lie"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"noise": -1.0}, "`noise` must be at least 0"),
        ({"goals_per_step": -1}, "`goals_per_step` must be at least 0"),
    ],
)
def test_numbers_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HAC(Walk(), **{**SMALL, **options})


def test_other_spaces_are_refused():
    with pytest.raises(ValueError, match="observations must be a Dict of Boxes"):
        HAC(gym.make("Pendulum-v1"), **SMALL)
    with pytest.raises(ValueError, match="actions must be a bounded Box"):
        HAC(gym.make("CartPole-v1"), **SMALL)


def test_goals_of_the_environment_may_have_another_radius():
    hac = HAC(Walk(), goal_radius=2.0, **SMALL)
    assert hac.arrived(np.array([1.5]), np.array([3.0]))
    assert not hac.near(np.array([1.5]), np.array([3.0]))


def test_episodes_that_all_begin_at_their_goals_raise():
    with pytest.raises(ValueError, match=r"`goal_radius` must leave goals to be reached; got 1,000 episodes"):
        HAC(Walk(), goal_radius=100.0, **SMALL).learn(1)

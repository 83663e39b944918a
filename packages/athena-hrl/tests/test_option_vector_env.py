"""Options in many environments at once: each row is what it is alone, in all ways of starting again."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from walk import as_functions, drawing_options, run_options, walk, walks

from athena_hrl import Option, OptionEnv, OptionVectorEnv

MODES = "NextStep", "SameStep", "Disabled"


def choice(draws: Any, mask: Any) -> int:
    return int(draws.choice(np.flatnonzero(mask)))


def alone(options: list[Option], *, seed: int, count: int, limit: int, gamma: float) -> list[tuple]:
    """The first transitions of a single environment, with choices drawn by ``seed``."""
    env, draws = OptionEnv(walk(limit=limit), options, gamma=gamma), np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    found = []
    while len(found) < count:
        option = choice(draws, info["action_mask"])
        after, reward, terminated, truncated, info = env.step(option)
        ends = tuple(info["action_mask"]), terminated, truncated
        found.append((observation, option, reward, info["duration"], info["discount"], after, *ends))
        observation = after
        if terminated or truncated:
            observation, info = env.reset()
    return found


def together(options: list[Option], mode: str, *, rows: int, count: int, limit: int, gamma: float) -> list:
    env = OptionVectorEnv(walks(rows, limit=limit, mode=mode), options, gamma=gamma)
    draws = [np.random.default_rng(seed) for seed in range(rows)]
    found: list[list[tuple]] = [[] for _ in range(rows)]
    _, info = env.reset(seed=0)
    while min(map(len, found)) < count:
        choices = np.full(rows, -1)  # not read
        for row in np.flatnonzero(info["needs_option"]):
            choices[row] = choice(draws[row], info["action_mask"][row])
        _, _, terminated, truncated, info = env.step(choices)
        closed = env.transitions()
        assert (np.flatnonzero(info["closed"]) == closed.rows).all()
        for place, row in enumerate(closed.rows):
            one = [np.asarray(part)[place] for part in closed[1:]]
            found[row].append((*one[:6], tuple(one[6]), *one[7:]))
        if mode == "Disabled" and (terminated | truncated).any():
            _, info = env.reset(options={"reset_mask": terminated | truncated})
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [run_options(), drawing_options(), as_functions(drawing_options())])
def test_each_row_is_what_it_is_alone(mode, options):
    settings: dict[str, Any] = {"count": 60, "limit": 13, "gamma": 0.9}
    rows = together(options, mode, rows=3, **settings)
    for seed, found in enumerate(rows):
        assert found[:60] == alone(options, seed=seed, **settings)
    durations = {one[3] for found in rows for one in found}
    assert len(durations) > 3
    assert any(one[-1] for found in rows for one in found), "some are truncated"
    assert any(one[-2] for found in rows for one in found), "some terminate"


@pytest.mark.parametrize("mode", MODES)
def test_rows_that_need_an_option_are_told_and_no_other_choice_is_read(mode):
    go = Option(policy=np.full(8, 1), termination=np.arange(8) == 5, initiation=np.arange(8) != 5)
    back = Option(policy=np.full(8, 0), termination=np.arange(8) == 4)
    env = OptionVectorEnv(walks(2, slip=0, mode=mode), [go, back])
    env.env.reset(seed=0)
    _, info = env.reset(seed=0)
    env.env.unwrapped._state["cell"][:] = [3, 4]  # pyright: ignore[reportAttributeAccessIssue]
    env._observation = np.array([3, 4])
    assert info["needs_option"].all()
    assert not info["closed"].any()
    _, _, _, _, info = env.step(np.array([0, 0]))
    assert info["needs_option"].tolist() == info["closed"].tolist() == [False, True]
    assert info["action_mask"].tolist() == [[True, True], [False, True]]
    with pytest.raises(ValueError, match=r"`option` must be one of \[1\], .* in the state 5; got 0"):
        env.step(np.array([99, 0]))
    _, _, _, _, info = env.step(np.array([99, 1]))  # row 0 is not asked
    assert info["needs_option"].tolist() == [True, True]
    closed = env.transitions()
    assert closed.rows.tolist() == [0, 1]
    assert closed.observation.tolist() == [3, 5]
    assert closed.option.tolist() == [0, 1]
    assert closed.duration.tolist() == [2, 1]
    assert closed.next_observation.tolist() == [5, 4]
    assert closed.discount == pytest.approx([0.99**2, 0.99])
    assert closed.reward[1] == pytest.approx(np.sin(8.0))


@pytest.mark.parametrize("kind", [list, as_functions])
@pytest.mark.parametrize("choice", [-1, -2, 5, 5000, -5000])
def test_choices_that_are_no_options_raise(kind, choice):
    env = OptionVectorEnv(walks(2), kind(run_options()))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=f"got {choice}"):
        env.step(np.array([3, choice]))
    env.step(np.array([3, 3]))  # nothing has happened


@pytest.mark.parametrize("choices", [np.zeros(3, int), np.zeros(2), np.zeros((2, 1), int), 0])
def test_choices_of_another_shape_raise(choices):
    env = OptionVectorEnv(walks(2), run_options())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"whole numbers of the shape \(2,\)"):
        env.step(choices)


@pytest.mark.parametrize("kind", [list, as_functions])
def test_no_option_can_start_and_the_state_is_printed(kind):
    right = Option(policy=np.full(8, 1), termination=np.arange(8) == 5, initiation=np.arange(8) != 5)
    env = OptionVectorEnv(walks(3, slip=0), kind([right]))
    with pytest.raises(ValueError, match=r"none for the state 5\. Add `primitives"):
        for seed in range(20):
            env.reset(seed=seed)
            for _ in range(6):
                env.step(np.zeros(3, int))


@pytest.mark.parametrize("mode", MODES)
def test_an_option_that_never_ends_is_ended_and_warned_of_once(mode):
    left = Option(policy=np.full(8, 0), termination=np.zeros(8), max_duration=4, name="stuck")
    brief = Option(policy=np.full(8, 0), termination=np.zeros(8), max_duration=2)
    env = OptionVectorEnv(walks(3, slip=0, mode=mode), [left, brief])
    env.reset(seed=0)
    durations: list[list[int]] = [[], [], []]
    choices = np.array([0, 1, 0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(12):
            env.step(choices)
            closed = env.transitions()
            for row, duration in zip(closed.rows, closed.duration, strict=True):
                durations[row].append(int(duration))
    assert durations == [[4, 4, 4], [2] * 6, [4, 4, 4]]
    assert sorted(str(one.message).split(" was")[0] for one in caught) == ["option 0 'stuck'", "option 1 ''"]


def test_an_option_that_ends_at_its_limit_by_itself_is_not_warned_of():
    place = np.arange(8)
    right = Option(policy=np.full(8, 1), termination=place >= 1, max_duration=1)
    env = OptionVectorEnv(walks(3, slip=0), [right])
    env.reset(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            env.step(np.zeros(3, int))


def test_discounts_of_long_options_reach_beyond_what_was_prepared():
    stay = Option(policy=np.full(8, 0), termination=np.zeros(8), max_duration=700)
    env = OptionVectorEnv(walks(2, slip=0), [stay], gamma=0.999)
    env.reset(seed=0)
    for _ in range(699):
        env.step(np.zeros(2, int))
    with pytest.warns(RuntimeWarning):
        env.step(np.zeros(2, int))
    closed = env.transitions()
    assert closed.discount == pytest.approx([0.999**700] * 2)
    place = np.maximum(closed.observation[:, None] - np.arange(1, 701), 0)
    assert closed.reward == pytest.approx((np.sin(2.0 * place) * 0.999 ** np.arange(700)).sum(1))


def test_dictionaries_of_observations():
    env = gym.vector.SyncVectorEnv([lambda: gym.wrappers.TimeLimit(Pair(), 3)] * 2, autoreset_mode="SameStep")
    up = Option(policy=lambda seen: 1, termination=lambda seen: seen["count"] == 2)
    over = OptionVectorEnv(env, [up], gamma=0.5)
    over.reset(seed=0)
    over.step(np.zeros(2, int))
    over.step(np.zeros(2, int))
    first = over.transitions()
    over.step(np.zeros(2, int))
    second = over.transitions()
    assert first.observation["count"].tolist() == [0, 0]
    assert first.next_observation["count"].tolist() == [2, 2]
    assert first.reward.tolist() == [1 + 0.5 * 2] * 2
    assert second.observation["count"].tolist() == [2, 2]
    assert second.next_observation["count"].tolist() == [3, 3], "the last of the episode, not of the reset"
    assert second.truncated.all()


class Pair(gym.Env[Any, Any]):
    """Counts its steps, in a dictionary of observations."""

    observation_space = gym.spaces.Dict({"count": gym.spaces.Discrete(9), "goal": gym.spaces.Box(0, 1, (2,))})
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.count += int(action)
        return self._seen(), float(self.count), False, False, {}

    def _seen(self) -> Any:
        return {"count": self.count, "goal": np.zeros(2, np.float32)}


def test_what_is_handed_out_can_be_changed():
    env, other = (OptionVectorEnv(walks(3, mode="SameStep"), run_options()) for _ in range(2))
    env.reset(seed=0)
    other.reset(seed=0)
    random = np.random.default_rng(0)
    for _ in range(40):
        choices = random.integers(2, 5, 3)
        *_, info = env.step(choices)
        for key in ("needs_option", "closed", "action_mask"):
            info[key][:] = False
        before = [np.array(part) for part in other.transitions()] if other._last else []
        other.step(choices)
        for one, two in zip(env.transitions(), other.transitions(), strict=True):
            assert (np.asarray(one) == np.asarray(two)).all()
        assert len(before) in (0, 10)


def test_misuse():
    env = OptionVectorEnv(walks(2), run_options())
    with pytest.raises(ResetNeeded, match="Call `reset`"):
        env.step(np.zeros(2, int))
    with pytest.raises(ResetNeeded, match="Call `step`"):
        env.transitions()
    with pytest.raises(ValueError, match="Take options of this environment"):
        OptionVectorEnv(walks(2, 9), run_options(8))
    with pytest.raises(ValueError, match=r"`gamma` must lie in \[0, 1\]"):
        OptionVectorEnv(walks(2), run_options(), gamma=2)


def test_options_over_options_raise_and_close_closes():
    over = OptionVectorEnv(walks(2), run_options())
    nested = gym.vector.SyncVectorEnv([lambda: OptionEnv(walk(), run_options())] * 2)
    for env in (over, nested):
        with pytest.raises(ValueError, match="`env` must take single steps"):
            OptionVectorEnv(env, run_options())
    over.close()
    assert over.env.closed


def test_a_run_without_a_seed():
    env = OptionVectorEnv(walks(2, slip=0, limit=9), drawing_options())
    env.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(30):
            env.step(np.full(2, 3))

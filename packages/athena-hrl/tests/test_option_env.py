"""The process over options as an environment: call-and-return, what it tells, what it refuses."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from walk import LEFT, RIGHT, Walk, as_functions, drawing_options, run_options, walk

from athena_core.environments import NumpyEnv
from athena_hrl import Option, OptionEnv, SMDPQLearning, primitives

CELLS = 8
PLACE = np.arange(CELLS)
REWARD = Walk(CELLS).reward


def at(cell: int, options: list[Option], *, gamma: float = 0.9, limit: int | None = None) -> OptionEnv:
    """A walk without slips, that begins in a cell."""
    inner = NumpyEnv(Walk(CELLS, slip=0))
    env: gym.Env[Any, Any] = inner if limit is None else gym.wrappers.TimeLimit(inner, limit)
    over = OptionEnv(env, options, gamma=gamma)
    over.reset(seed=0)
    assert inner._state is not None
    inner._state["cell"][:] = cell
    over._observation, over._mask = np.int64(cell), over.options.starts(cell)
    return over


def test_rewards_are_discounted_over_the_options_duration():
    """Pitfall 9: R is the sum of gamma^i r_i, and the next value is weighed by gamma^k."""
    env = at(2, run_options())
    state, reward, terminated, truncated, info = env.step(0)  # to the right, up to cell 6
    assert (state, terminated, truncated) == (6, False, False)
    assert reward == pytest.approx(sum(0.9**i * REWARD[3 + i] for i in range(4)))
    assert (info["duration"], info["discount"]) == (4, pytest.approx(0.9**4))
    assert env.gamma == 0.9


def test_termination_is_tested_on_arrival_and_for_the_option_that_acted():
    """Pitfall 11: an option takes a step even where it would end, and ends by its own beta."""
    stay = Option(policy=np.full(CELLS, RIGHT), termination=PLACE <= 3)  # only where it starts
    go = Option(policy=np.full(CELLS, RIGHT), termination=PLACE == 4)
    for option, end, duration in ((0, 7, 4), (1, 4, 1)):
        env = at(3, [stay, go])
        state, *_, info = env.step(option)
        assert (state, info["duration"]) == (end, duration)


def test_the_end_of_an_episode_closes_the_option_with_the_steps_there_were():
    """Pitfall 11: partial k, and terminated and truncated as they were."""
    go = Option(policy=np.full(CELLS, RIGHT), termination=np.zeros(CELLS))
    state, reward, terminated, truncated, info = at(5, [go]).step(0)
    assert (state, terminated, truncated, info["duration"]) == (7, True, False, 2)
    assert reward == pytest.approx(REWARD[6] + 0.9 * REWARD[7])
    state, reward, terminated, truncated, info = at(1, [go], limit=3).step(0)
    assert (state, terminated, truncated, info["duration"]) == (4, False, True, 3)
    assert info["discount"] == pytest.approx(0.9**3)
    _, _, terminated, truncated, _ = at(4, [go], limit=3).step(0)
    assert (terminated, truncated) == (True, True)


@pytest.mark.parametrize("kind", [list, as_functions])
def test_masks_are_those_of_the_new_observation(kind):
    """Pitfall 10."""
    env = at(2, kind(run_options()))
    assert env.action_masks().tolist() == [True, True, True, True, True]
    assert env.step(0)[-1]["action_mask"].tolist() == [False, True, True, True, True]  # in cell 6
    assert env.step(1)[-1]["action_mask"].tolist() == [True, False, True, True, True]  # in cell 0
    _, info = env.reset(seed=3)
    assert (info["duration"], info["discount"]) == (0, 1.0)
    assert (info["action_mask"] == env.action_masks()).all()


@pytest.mark.parametrize("option", [0, 5, -1, 1.0, None, np.array([1])])
def test_an_option_that_cannot_start_raises_and_names_those_that_can(option):
    env = at(6, run_options())
    with pytest.raises(
        ValueError, match=r"`option` must be one of \[1, 2, 3, 4\].* in the state 6; got"
    ) as caught:
        env.step(option)
    assert "\n" not in str(caught.value)
    env.step(1)  # nothing has happened


def test_masks_that_are_changed_change_no_options():
    env = at(2, run_options())
    env.action_masks()[:] = False
    _, info = env.reset(seed=0)
    info["action_mask"][:] = True
    with pytest.raises(ValueError, match="`option` must be one of"):
        at(6, run_options()).step(0)
    env = at(2, run_options())
    *_, info = env.step(0)
    info["action_mask"][:] = True
    with pytest.raises(ValueError, match="`option` must be one of"):
        env.step(0)
    assert env.options.starts(0).tolist() == [True, False, True, True, True]


def test_no_option_can_start_and_the_state_is_printed():
    """Bad input of the issue."""
    right = Option(policy=np.full(CELLS, RIGHT), termination=PLACE == 5, initiation=PLACE != 5)
    with pytest.raises(ValueError, match=r"none for the state 5\. Add `primitives"):
        at(2, [right]).step(0)
    with pytest.raises(ValueError, match="none for the state"):
        OptionEnv(
            walk(), [Option(policy=lambda s: 0, termination=lambda s: True, initiation=lambda s: False)]
        ).reset()
    onward = Option(policy=np.full(CELLS, RIGHT), termination=PLACE == 7, initiation=PLACE < 7)
    *_, terminated, _, info = at(2, [onward]).step(0)  # where the episode ends none need start
    assert terminated
    assert not info["action_mask"].any()


def test_an_option_that_never_ends_is_ended_and_warned_of_once():
    """Bad input of the issue."""
    left = Option(policy=np.full(CELLS, LEFT), termination=np.zeros(CELLS), max_duration=5, name="stuck")
    env = at(2, [left])
    with pytest.warns(
        RuntimeWarning, match="option 0 'stuck' was ended after its `max_duration` of 5 steps, in the state 0"
    ):
        state, _, terminated, truncated, info = env.step(0)
    assert (state, terminated, truncated, info["duration"]) == (0, False, False, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert env.step(0)[-1]["duration"] == 5


def test_an_option_that_ends_at_its_limit_by_itself_is_not_warned_of():
    right = Option(policy=np.full(CELLS, RIGHT), termination=PLACE == 5, max_duration=3)
    assert at(2, [right]).step(0)[-1]["duration"] == 3


def test_a_step_after_a_truncation_wants_a_reset():
    env = at(2, run_options(), limit=1)
    assert env.step(0)[3]
    with pytest.raises(ResetNeeded):
        env.step(0)


def test_the_seed_repeats_what_is_drawn_and_no_seed_goes_on():
    def episode(env: OptionEnv, seed: int | None) -> list[Any]:
        env.reset(seed=seed)
        return [env.step(0 if env.action_masks()[0] else 1)[:2] for _ in range(3)]

    env = OptionEnv(walk(slip=0, limit=50), drawing_options())
    first = episode(env, 3)
    again = episode(env, None)
    assert episode(env, 3) == first
    assert episode(env, None) == again
    assert first != again
    assert OptionEnv(walk(), drawing_options()).reset()[0] in range(CELLS)


def test_infos_of_the_environment_are_kept_but_for_its_own_mask():
    env = gym.make("Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3")
    over = OptionEnv(env, primitives(env))
    _, info = over.reset(seed=0)
    assert info["action_mask"].shape == (6,)
    assert info["action_mask"].dtype == np.bool_
    assert "prob" in info


def test_options_over_options_are_discounted_by_steps():
    env = at(2, run_options())
    twice = Option(policy=lambda cell: 4 if cell < 4 else 0, termination=lambda cell: cell == 6)
    over = OptionEnv(env, [twice], gamma=0.9)
    over._observation, over._mask, over._random = np.int64(2), np.ones(1, bool), np.zeros(1, np.uint64)
    state, reward, _, _, info = over.step(0)  # a step, a step, and the option to the right
    assert state == 6
    assert info["duration"] == 4
    assert info["discount"] == pytest.approx(0.9**4)
    assert reward == pytest.approx(sum(0.9**i * REWARD[3 + i] for i in range(4)))
    with pytest.raises(ValueError, match=r"has discounted rewards by 0\.9; got 0\.99"):
        OptionEnv(env, [twice], gamma=0.99)


def test_a_gamma_of_another_kind_is_told_of():
    env = walk()
    env.unwrapped.gamma = 0.9  # pyright: ignore[reportAttributeAccessIssue]  # not over options
    for make in (
        lambda: OptionEnv(env, run_options(), gamma=0.9).reset(),
        lambda: SMDPQLearning(env).learn(1),
    ):
        with pytest.raises(ValueError, match=r"`env` has an attribute `gamma`.* infos lack \['duration'"):
            make()


def test_misuse():
    for gamma in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"`gamma` must lie in \[0, 1\]"):
            OptionEnv(walk(), run_options(), gamma=gamma)
    with pytest.raises(ValueError, match="Take options of this environment"):
        OptionEnv(walk(9), run_options(8))
    env = OptionEnv(walk(), run_options())
    for call in (env.action_masks, lambda: env.step(3)):
        with pytest.raises(ResetNeeded, match="Call `reset`"):
            call()
    env = at(6, run_options())
    env.step(4)
    with pytest.raises(ResetNeeded, match="Call `reset`"):
        env.step(4)

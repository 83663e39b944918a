"""Each autoreset mode tells the same transitions, with the observation that each action led to."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from scripted_env import DISABLED, MODES, NEXT_STEP, SAME_STEP, Scripted, read_script, valid_rows
from torch.utils._pytree import tree_leaves

from athena_explore import StepReader, Transition, stack_transitions
from athena_explore._bonus_laws import VECTOR, walk

FORMS: dict[str, tuple[spaces.Space, Any]] = {
    "vector": (VECTOR, lambda v: v),
    "dictionary": (spaces.Dict({"a": VECTOR, "b": VECTOR}), lambda v: {"a": v, "b": 2 * v}),
    "tuple": (spaces.Tuple([VECTOR, VECTOR]), lambda v: (v, -v)),
    "nested": (
        spaces.Dict({"x": spaces.Dict({"y": VECTOR}), "z": spaces.Tuple([VECTOR])}),
        lambda v: {"x": {"y": v}, "z": (v + 1,)},
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_reader_tells_the_script(mode: Any) -> None:
    script = walk(30, 3, seed=1, together=False)
    assert script.terminated.any()
    assert script.truncated.any()
    told = read_script(Scripted(script, mode), 45)
    for row in range(3):
        for found, written in zip(valid_rows(told, row), valid_rows(script, row), strict=True):
            torch.testing.assert_close(found[:30], written)
    assert bool(told.valid.all()) == (mode is not NEXT_STEP)


@pytest.mark.parametrize("layout", ["objects", "batched"])
@pytest.mark.parametrize("form", FORMS)
def test_final_observations_of_any_form(form: str, layout: str) -> None:
    script = walk(20, 3, seed=1, together=False)
    space, wrap = FORMS[form]
    told = read_script(Scripted(script, SAME_STEP, space=space, wrap=wrap, layout=layout), 20)
    written = tree_leaves(wrap(script.next_obs))
    for found, expected in zip(tree_leaves(told.next_obs), written, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_gymnasiums_own_vector_environments(kind: Any, mode: Any) -> None:
    """The observations of an episode, one after the other, are those of a single environment."""
    make = lambda: gym.make("CartPole-v1", max_episode_steps=12)  # noqa: E731  # workers take functions alone
    env = kind([make] * 2, autoreset_mode=mode)
    reader, rows = StepReader(env), []
    reader.reset(env.reset(seed=5)[0])
    for t in range(30):
        action = np.array([t % 2, 0])
        rows.append(reader.read(action, env.step(action)))
        if mode is DISABLED and rows[-1].done.any():
            done = rows[-1].done[0].numpy()
            reader.reset(env.reset(options={"reset_mask": done.copy()})[0], reset_mask=done)
    env.close()
    rollout, single = stack_transitions(rows), make()
    for row in range(2):
        obs, actions, following, terminated, truncated = valid_rows(rollout, row)
        now, _ = single.reset(seed=5 + row)
        for t, action in enumerate(actions.tolist()):
            np.testing.assert_array_equal(obs[t], now)
            now, _, end, cut, _ = single.step(action)
            np.testing.assert_array_equal(following[t], now)
            assert (bool(terminated[t]), bool(truncated[t])) == (end, cut)
            if end or cut:
                now, _ = single.reset()
    assert rollout.truncated.any()
    assert rollout.terminated.any()


def test_the_environment_may_reuse_its_arrays() -> None:
    reader, obs, no = StepReader("SameStep"), np.zeros((2, 3), np.float32), np.zeros(2, bool)
    reader.reset(obs)
    obs += 1
    action = np.zeros(2, int)
    first = reader.read(action, (obs, no, no, no, {}))
    obs += 1
    action += 1
    second = reader.read(action, (obs, no, no, no, {}))
    assert [float(one.obs.mean()) for one in (first, second)] == [0, 1]
    assert [float(one.next_obs.mean()) for one in (first, second)] == [1, 2]
    assert [int(one.action.sum()) for one in (first, second)] == [0, 2]


def test_tensors_and_strided_arrays() -> None:
    reader, no = StepReader(NEXT_STEP), torch.zeros(2, dtype=torch.bool)
    reader.reset(torch.ones(2, 3, requires_grad=True))
    strided = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::-2]
    told = reader.read(torch.zeros(2), (strided, no, no, no, {}))
    assert told.next_obs[0, 1].tolist() == [11, 9, 7]
    assert not told.obs.requires_grad


def test_an_early_reset_in_next_step_mode_leaves_no_empty_row() -> None:
    """EnvPool and Gymnasium let rows be reset at once; then the next step is one like any other."""
    env = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync", max_episode_steps=3)
    reader = StepReader(env)
    reader.reset(env.reset(seed=0)[0])
    for t in range(7):
        action = np.array([t % 2, 1 - t % 2])
        told = reader.read(action, env.step(action))
        assert told.valid.all()
        if told.done.any():
            done = told.done[0].numpy()
            reader.reset(env.reset(options={"reset_mask": done.copy()})[0], reset_mask=done)


def test_unknown_modes_are_named() -> None:
    for given in ("sometimes", None):
        with pytest.raises(ValueError, match="NEXT_STEP, SAME_STEP or DISABLED; got") as error:
            StepReader(given)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    env = Scripted(walk(3, 1), NEXT_STEP)
    env.metadata = {}
    with pytest.raises(ValueError, match="got None"):
        StepReader(env)


def test_what_is_missing_is_named() -> None:
    no, yes, obs = np.zeros(2, bool), np.array([False, True]), np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="`reset` must be given"):
        StepReader(NEXT_STEP).read(no, (obs, no, no, no, {}))
    reader = StepReader(SAME_STEP)
    reader.reset(obs)
    hole = np.full(2, None, dtype=object)
    for info in ({}, {"final_obs": hole}, {"final_obs": obs, "_final_obs": no}):
        with pytest.raises(ValueError, match=r'"final_obs" of the rows \[1\]'):
            reader.read(no, (obs, no, yes, no, info))
    reader = StepReader(DISABLED)
    reader.reset(obs)
    reader.read(no, (obs, no, yes, no, {}))
    with pytest.raises(ValueError, match=r"rows \[1\] must be reset"):
        reader.read(no, (obs, no, no, no, {}))
    with pytest.raises(ValueError, match="at least one"):
        stack_transitions([])


def test_stacked_transitions_keep_their_parts() -> None:
    parts = [walk(3, 2, seed=seed) for seed in range(3)]
    whole = stack_transitions(parts)
    assert whole.shape == (9, 2)
    assert isinstance(whole, Transition)
    torch.testing.assert_close(whole[3:6].next_obs, parts[1].next_obs)

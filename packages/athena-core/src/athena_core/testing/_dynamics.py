"""The law of environments by rules over arrays: many at once are a loop over single ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gymnasium.vector import AutoresetMode

    from athena_core.environments import Dynamics


def check_dynamics(
    dynamics: Dynamics, *, num_envs: int = 5, steps: int = 120, max_episode_steps: int | None = None
) -> None:
    """Raise AssertionError unless many environments by these rules at once are a loop over single ones.

    ``NumpyVectorEnv`` and Gymnasium's ``SyncVectorEnv`` of ``NumpyEnv`` must give the same observations,
    rewards, ends and infos for the same seeds and actions drawn at random, in each autoreset mode; and the
    same after a reset of some rows, with and without seeds. All observations must lie in their space.

    Args:
        dynamics: the rules.
        num_envs: rows, at least 2.
        steps: of each mode; enough for several episodes of each row.
        max_episode_steps: after as many an episode is truncated; None is the ``time_limit`` of the rules.

    >>> import numpy as np
    >>> from gymnasium import spaces
    >>> from athena_core.environments import Advanced, Dynamics, draw
    >>> class Coin(Dynamics):
    ...     observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)
    ...
    ...     def start(self, random):
    ...         tossed, random = draw(random, 1)
    ...         return {"random": random, "side": (tossed[:, 0] < 0.5).astype(np.int64)}
    ...
    ...     def advance(self, state, action):
    ...         after = self.start(state["random"])
    ...         return Advanced(after, (after["side"] == action).astype(float), after["side"] == 1)
    ...
    ...     def observe(self, state):
    ...         return state["side"].copy()
    >>> check_dynamics(Coin())
    """
    from gymnasium.vector import AutoresetMode

    for mode in AutoresetMode:
        ours, loop = _pair(dynamics, num_envs, mode, max_episode_steps)
        assert ours.observation_space == loop.observation_space, "the spaces of observations differ"
        assert ours.action_space == loop.action_space, "the spaces of actions differ"
        ours.action_space.seed(0)
        _same(ours.reset(seed=3), loop.reset(seed=3), f"reset, {mode.value}")
        some = np.arange(num_envs) % 2 == 0
        for step in range(steps):
            where = f"step {step}, {mode.value}"
            ended = _stepped(ours, loop, where)
            if mode is AutoresetMode.DISABLED and ended.any():
                _reset_same(ours, loop, ended, None, where)
            if step % 40 == 20:
                seeds = [None, step, [None if row % 3 else row for row in range(num_envs)]]
                _reset_same(ours, loop, some, seeds[step // 40 % 3], where)


def _pair(dynamics: Dynamics, num_envs: int, mode: AutoresetMode, limit: int | None) -> tuple[Any, Any]:
    from gymnasium.vector import SyncVectorEnv
    from gymnasium.wrappers import TimeLimit

    from athena_core.environments import NumpyEnv, NumpyVectorEnv

    def single() -> Any:
        env = NumpyEnv(dynamics)
        return env if ours.max_episode_steps is None else TimeLimit(env, ours.max_episode_steps)

    ours = NumpyVectorEnv(dynamics, num_envs, autoreset_mode=mode, max_episode_steps=limit)
    return ours, SyncVectorEnv([single] * num_envs, autoreset_mode=mode)


def _stepped(ours: Any, loop: Any, where: str) -> Any:
    """One step of both; which rows ended."""
    actions = ours.action_space.sample()
    step = ours.step(actions)
    _same(step, loop.step(actions), where)
    assert step[0] in ours.observation_space, f"{where}: {step[0]} is not in the space"
    return step[2] | step[3]


def _reset_same(ours: Any, loop: Any, rows: Any, seed: Any, where: str) -> None:
    mine, other = (env.reset(seed=seed, options={"reset_mask": rows.copy()}) for env in (ours, loop))
    _same(mine, other, f"{where}, reset")


def _same(ours: Any, other: Any, where: str) -> None:
    if isinstance(ours, dict):
        assert ours.keys() == other.keys(), f"{where}: {ours.keys()} are not {other.keys()}"
        for key in ours:
            _same(ours[key], other[key], f"{where}, {key}")
    elif isinstance(ours, tuple):
        for one, another in zip(ours, other, strict=True):
            _same(one, another, where)
    elif isinstance(ours, np.ndarray) and ours.dtype == object:
        for one, another in zip(ours, other, strict=True):
            assert (one is None) == (another is None), f"{where}: {one} is not {another}"
            _same(one, another, where)
    elif ours is not None:
        told = f"{where}: {ours.dtype} of {ours.shape} is not {other.dtype} of {other.shape}"
        assert (ours.dtype, ours.shape) == (other.dtype, other.shape), told
        np.testing.assert_array_equal(ours, other, err_msg=where)

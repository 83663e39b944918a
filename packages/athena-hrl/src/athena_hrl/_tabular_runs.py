"""Runs of one tabular learner side by side, each with its own tables, episodes and random numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from athena_core.environments import autoreset_mode, draw, final_observations, streams
from athena_hrl._smdp import agreed_gamma

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

_DRAWS = 3  # random numbers of a run in a step, the same for all learners: of action, of end, of option
_BLOCK = 128  # steps whose numbers are drawn at once


class TabularStep(NamedTuple):
    """One step of all runs; each field has the shape ``(R,)``.

    ``arrival`` is where the step led, also where the next episode has begun since. A row that is not ``live``
    spent the step on its reset.

    >>> ones = np.ones(1, dtype=np.bool_)
    >>> TabularStep(np.array([0]), np.array([1]), np.zeros(1), np.array([2]), ~ones, ~ones, ones).state
    array([0])
    """

    state: Integers
    action: Integers
    reward: Array
    arrival: Integers
    terminated: Booleans
    truncated: Booleans
    live: Booleans


class TabularRuns(ABC):
    """``R`` runs of a tabular learner, one a row of a vector environment, without a loop over them.

    Row ``r`` is the run that one environment with its seed would give, number by number: each row has its own
    tables and its own stream of random numbers, which belongs to ``seed + r``.

    Args:
        env: a vector environment with Discrete observations and actions, or one environment.
        gamma: the discount; that of the environment, if it has one.
        seed: of the first run, for the environment and for the learner.

    Attributes:
        lengths: steps of the finished episodes, ``(R, most episodes)``; 0 where a run has not come so far.

    Raises ValueError for other spaces, a gamma outside [0, 1], or a vector environment that does not reset
    itself.

    >>> class Still(TabularRuns):
    ...     def begin(self, rows, uniform):
    ...         pass
    ...
    ...     def act(self, uniform):
    ...         return np.full(self.runs, 2)
    ...
    ...     def update(self, step, uniform):
    ...         pass
    >>> runs = Still(gym.make_vec("FrozenLake-v1", 2, is_slippery=False), gamma=0.9).learn(5)
    >>> runs.state.tolist(), runs.episodes.tolist()
    ([3, 3], [0, 0])
    """

    tables: ClassVar[tuple[str, ...]] = ()  #: attributes that are learned, or go on, in `state_dict`

    def __init__(
        self, env: VectorEnv[Any, Any, Any] | gym.Env[Any, Any], *, gamma: float, seed: int = 0
    ) -> None:
        vector = env if isinstance(env, VectorEnv) else SyncVectorEnv([lambda: env])
        self.env, self.gamma = vector, agreed_gamma(env, gamma)
        self.seed, self.runs = seed, vector.num_envs
        self.n_states, self._first_state = _discrete("observation", vector.single_observation_space)
        self.n_actions, self._first_action = _discrete("action", vector.single_action_space)
        mode = autoreset_mode(vector)
        if mode is AutoresetMode.DISABLED:
            raise ValueError(f"`env` must reset itself; got {mode}. Make it with NEXT_STEP or SAME_STEP.")
        self._same_step = mode is AutoresetMode.SAME_STEP
        self.rows = np.arange(self.runs)
        first = np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
        # twice: the environment's own stream of this seed may be the first
        self._random = streams(streams(first + self.rows.astype(np.uint64)))
        self._uniform, self._place = np.empty((0, _DRAWS, self.runs)), 0
        self._started = False
        self.state = np.zeros(self.runs, dtype=np.int64)
        self.waiting = np.zeros(self.runs, dtype=np.bool_)  # for their reset, which the next step is
        self.elapsed = np.zeros(self.runs, dtype=np.int64)
        self.episodes = np.zeros(self.runs, dtype=np.int64)
        self._lengths = np.zeros((self.runs, 16), dtype=np.int64)

    @property
    def lengths(self) -> Integers:
        return self._lengths[:, : self.episodes.max(initial=0)]

    @abstractmethod
    def begin(self, rows: Integers, uniform: Array) -> None:
        """Start an episode in ``rows``, whose `state` is its first; ``uniform`` is ``(3, R)``."""

    @abstractmethod
    def act(self, uniform: Array) -> Integers:
        """Actions ``(R,)`` from 0, in `state`; ``uniform`` is ``(3, R)``."""

    @abstractmethod
    def update(self, step: TabularStep, uniform: Array) -> None:
        """Learn from a step; ``uniform`` is that of `act` and of the `begin` that follows."""

    def learn(self, steps: int) -> Self:
        """Take so many steps in every run."""
        if not self._started:
            self.state = self._states(self.env.reset(seed=self.seed)[0])
            self._started = True
            self.begin(self.rows, self._numbers())
        for _ in range(steps):
            self._step()
        return self

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on, with the environment's where it has a `state_dict`."""
        names = (*_RECORD, *self.tables)
        state: dict[str, Any] = {name: getattr(self, name).copy() for name in names}
        state |= {"random": self._random.copy(), "place": self._place, "started": self._started}
        if self._started and hasattr(self.env, "state_dict"):
            state["env"] = self.env.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; with an environment that cannot, from new episodes of it.

        Raises ValueError for tables of another size.
        """
        for name in (*_RECORD, *self.tables):
            value, now = np.asarray(state[name]).copy(), getattr(self, name)
            if value.shape != now.shape and name != "_lengths":
                raise ValueError(
                    f"`state` must hold `{name}` of the shape {now.shape}; got {value.shape}. Make the "
                    "learner with the environment and the sizes it was saved with."
                )
            setattr(self, name, value)
        self._random, self._place = np.asarray(state["random"]).copy(), int(state["place"])
        self._uniform = self._block() if self._place else self._uniform[:0]
        self._started = bool(state["started"]) and "env" in state
        if self._started:
            self.env.load_state_dict(_arrays(state["env"]))  # pyright: ignore[reportAttributeAccessIssue]
        else:
            self.waiting[:], self.elapsed[:] = False, 0

    def _step(self) -> None:
        uniform = self._numbers()
        action = self.act(uniform)
        obs, reward, terminated, truncated, info = self.env.step(action + self._first_action)
        done = terminated | truncated
        state = arrival = self._states(obs)
        if self._same_step and done.any():
            arrival = state.copy()
            final = final_observations(torch.as_tensor(state), info, torch.as_tensor(done))
            arrival[done] = final.numpy() - self._first_state
        live = ~self.waiting
        self.update(TabularStep(self.state, action, reward, arrival, terminated, truncated, live), uniform)
        begins = done if self._same_step else self.waiting
        if not self._same_step:
            self.waiting = done
        self.state = state
        self.elapsed += live
        if done.any():
            self._record(np.flatnonzero(done))
        if begins.any():
            self.begin(np.flatnonzero(begins), uniform)

    def _record(self, rows: Integers) -> None:
        if self.episodes[rows].max() == self._lengths.shape[1]:
            self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)], axis=1)
        self._lengths[rows, self.episodes[rows]] = self.elapsed[rows]
        self.episodes[rows] += 1
        self.elapsed[rows] = 0

    def _states(self, observation: Any) -> Integers:
        return np.asarray(observation, dtype=np.int64) - self._first_state

    def _numbers(self) -> Array:
        """The next random numbers ``(3, R)``; drawn for many steps at once, as a call is costly."""
        if self._place == 0:
            self._uniform = self._block()
        numbers = self._uniform[self._place]
        self._place += 1
        if self._place == _BLOCK:
            self._random = draw(self._random, _BLOCK * _DRAWS)[1]
            self._place = 0
        return numbers

    def _block(self) -> Array:
        numbers = draw(self._random, _BLOCK * _DRAWS)[0]
        return np.ascontiguousarray(numbers.T).reshape(_BLOCK, _DRAWS, self.runs)


_RECORD = ("state", "waiting", "elapsed", "episodes", "_lengths")


def _arrays(state: Any) -> Any:
    """Arrays, where a checkpoint made tensors of them."""
    if isinstance(state, Mapping):
        return {name: _arrays(value) for name, value in state.items()}
    return state.numpy().copy() if isinstance(state, torch.Tensor) else state


def _discrete(name: str, space: Any) -> tuple[int, int]:
    if not isinstance(space, spaces.Discrete):
        raise ValueError(f"`env` must have a Discrete {name} space; got {space}. Tables need numbered rows.")
    return int(space.n), int(space.start)

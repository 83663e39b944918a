"""An environment whose episode under way can be saved: by its seed and its actions."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray


class Episode(NamedTuple):
    """An episode that can be played again.

    >>> Episode(seed=7, actions=np.array([1, 0]), total=0.5).actions.shape
    (2,)
    """

    seed: int  # of `reset`
    actions: NDArray[Any]  # (steps, *shape)
    total: float  # its return, not discounted


class Seen(NamedTuple):
    """What happened since `ReplayableEnv.drain` was last called.

    >>> Seen(ended=[(1.0, 12)], marks=[]).ended[0]
    (1.0, 12)
    """

    ended: list[tuple[float, int]]  # return and length of each episode
    marks: list[Any]  # of where the environment was, after each reset and step


class ReplayableEnv(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Begins each episode from a seed of its own and notes its actions, so that its state can be saved.

    `load_state_dict` resets to the seed of the episode under way and plays its actions again. That restores
    every environment that is deterministic given a seed and actions, wrappers inside with it, whatever it is
    written in; another one is found out. A load takes as long as the episode has lasted.

    Episode ``k`` of environment ``index`` has a seed that depends on ``seed``, ``index`` and ``k`` alone.
    ``best`` is the episode of the highest return, the shortest and then the first of equals.

    Args:
        env: what to wrap.
        seed: of all episodes; one given to `reset` takes its place, from episode 0.
        index: tells environments of one seed apart.
        mark: asked after each reset and step where the environment is, for maps of visits.

    Raises ValueError for options of `reset`, or a state that playing again does not lead to.

    >>> env = ReplayableEnv(gym.make("CartPole-v1"), seed=0)
    >>> _ = env.reset(), env.step(1)
    >>> state = env.state_dict()
    >>> other = ReplayableEnv(gym.make("CartPole-v1"), seed=0)
    >>> other.load_state_dict(state)
    >>> bool((env.step(0)[0] == other.step(0)[0]).all())
    True
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        seed: int,
        index: int = 0,
        mark: Callable[[], Any] | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(self, seed=seed, index=index, mark=mark)
        gym.Wrapper.__init__(self, env)
        self.base_seed, self.index, self.mark = seed, index, mark
        self.episode = -1  # its number; -1 before the first
        self.total = 0.0
        self.best: Episode | None = None
        self._actions: list[NDArray[Any]] = []
        self._checksum = 0
        self._ended: list[tuple[float, int]] = []
        self._marks: list[Any] = []

    @property
    def episode_seed(self) -> int:
        """The seed of the episode under way: 31 bits, which all environments take."""
        drawn = np.random.SeedSequence([self.base_seed, self.index, self.episode]).generate_state(1)
        return int(drawn[0] >> 1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if options:
            raise ValueError(
                f"`options` must be empty, since a replay has none; got {options}. Pass them to `make`."
            )
        if seed is not None:
            self.base_seed, self.episode = seed, -1
        self.episode += 1
        self._actions, self.total = [], 0.0
        observation, info = self.env.reset(seed=self.episode_seed)
        self._look(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._actions.append(np.array(action))
        self.total += float(reward)
        self._look(observation)
        if terminated or truncated:
            self._end()
        return observation, reward, terminated, truncated, info

    def drain(self) -> Seen:
        """What was seen since the last call, which no state holds: call it before `state_dict`."""
        seen = Seen(self._ended, self._marks)
        self._ended, self._marks = [], []
        return seen

    def state_dict(self) -> dict[str, Any]:
        """The episode under way and the best one, as numbers and arrays."""
        best = None if self.best is None else self.best._asdict()
        return {
            "base_seed": self.base_seed,
            "episode": self.episode,
            "actions": np.stack(self._actions) if self._actions else np.zeros(0),
            "total": self.total,
            "checksum": self._checksum,
            "best": best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Play the saved episode again, up to where it was."""
        self.base_seed, self.episode, self.total = state["base_seed"], state["episode"], state["total"]
        self._actions = list(np.asarray(state["actions"]))
        best = state["best"]
        self.best = None if best is None else Episode(**{**best, "actions": np.asarray(best["actions"])})
        self._ended, self._marks = [], []
        if self.episode < 0:
            return
        observation, _ = self.env.reset(seed=self.episode_seed)
        for action in self._actions:
            observation = self.env.step(action)[0]
        self._checksum = checksum(observation)
        if self._checksum != state["checksum"]:
            raise ValueError(
                f"`env` must be deterministic given a seed and actions; {self.env} gave another observation "
                f"after {len(self._actions)} steps of the seed {self.episode_seed}. Start a new run."
            )

    def _look(self, observation: Any) -> None:
        self._checksum = checksum(observation)
        if self.mark is not None:
            self._marks.append(self.mark())

    def _end(self) -> None:
        length = len(self._actions)
        self._ended.append((self.total, length))
        if self.best is None or (self.total, -length) > (self.best.total, -len(self.best.actions)):
            self.best = Episode(self.episode_seed, np.stack(self._actions), self.total)


def checksum(observation: Any, before: int = 0) -> int:
    """A number that tells observations apart, of any space.

    >>> checksum({"a": np.zeros(2), "b": "go"}) == checksum({"b": "go", "a": np.zeros(2)})
    True
    >>> checksum((1.0, 2.0)) == checksum((1.0, 3.0))
    False
    """
    if isinstance(observation, Mapping):
        for name in sorted(observation):
            before = checksum(observation[name], zlib.crc32(str(name).encode(), before))
        return before
    if isinstance(observation, tuple | list):
        for part in observation:
            before = checksum(part, before)
        return before
    content = observation.encode() if isinstance(observation, str) else np.asarray(observation).tobytes()
    return zlib.crc32(content, before)

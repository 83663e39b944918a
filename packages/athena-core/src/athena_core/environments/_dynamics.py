"""The rules of an environment as functions over arrays of states, the same for one and for many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from athena_core.environments._visit_map import VisitMap

State = dict[str, NDArray[Any]]  #: what an environment is in: arrays by name, one row an environment
Words = NDArray[np.uint64]  #: places in streams of random numbers, one an environment

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # odd, nearest to 2^64 divided by the golden ratio


class Advanced(NamedTuple):
    """What one step makes of ``(N, ...)`` states: float64 rewards ``(N,)``, and which ended ``(N,)``.

    >>> Advanced({"cell": np.array([3])}, reward=np.ones(1), terminated=np.array([True])).reward
    array([1.])
    """

    state: State
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]


class Dynamics(ABC):
    r"""The rules :math:`s_{t+1}, r_t = f(s_t, a_t)` of an environment, without a state of their own.

    `NumpyEnv` runs one environment by them, `NumpyVectorEnv` many at once. A state is a dictionary of arrays
    with one row an environment. Its ``random`` holds the place of each row in its own stream of random
    numbers (`draw`), so that a row is the same alone and among others. No array may be changed in place.

    Attributes:
        observation_space: of one environment; observations of a Dict are dictionaries of arrays.
        action_space: Discrete from 0, or Box.
        time_limit: steps after which `NumpyVectorEnv` cuts an episode unless told otherwise; None is never.

    >>> class Corridor(Dynamics):
    ...     observation_space, action_space = spaces.Discrete(9), spaces.Discrete(2)
    ...
    ...     def start(self, random):
    ...         return {"random": random, "place": np.zeros(len(random), dtype=np.int64)}
    ...
    ...     def advance(self, state, action):
    ...         place = np.clip(state["place"] + 2 * action - 1, 0, 8)
    ...         return Advanced({**state, "place": place}, (place == 8).astype(float), place == 8)
    ...
    ...     def observe(self, state):
    ...         return state["place"].copy()
    ...
    ...     def position(self, observation):
    ...         return np.asarray(observation, dtype=float)[..., None]
    ...
    ...     def visit_map(self):
    ...         return VisitMap([-0.5], [8.5], [9])
    ...
    ...     def frames(self, state):
    ...         return np.zeros((len(state["place"]), 1, 9, 3), dtype=np.uint8)
    >>> from athena_core.environments import NumpyVectorEnv
    >>> env = NumpyVectorEnv(Corridor(), 3)
    >>> _ = env.reset(seed=0)
    >>> env.step(np.array([0, 1, 1]))[0]
    array([0, 1, 1])
    """

    observation_space: spaces.Space
    action_space: spaces.Discrete | spaces.Box
    time_limit: int | None = None

    @abstractmethod
    def start(self, random: Words) -> State:
        """States at the start of an episode, for streams ``(N,)``."""

    @abstractmethod
    def advance(self, state: State, action: NDArray[Any]) -> Advanced:
        """One step with the actions ``(N, *shape)``: int64 of a Discrete space, within the bounds of a Box.

        A row past its end may become anything, but must not raise.
        """

    @abstractmethod
    def observe(self, state: State) -> Any:
        """New arrays ``(N, *shape)`` of observations, in a dictionary where the space is a Dict."""

    def position(self, observation: Any) -> NDArray[np.float64]:
        """Where observations ``(..., *shape)`` are on the map of visits, ``(..., 2)``; NaN is nowhere."""
        raise NotImplementedError(f"{type(self).__name__} has no map of visits.")

    def visit_map(self) -> VisitMap:
        """A map without visits, whose cells suit `position`."""
        raise NotImplementedError(f"{type(self).__name__} has no map of visits.")

    def frames(self, state: State) -> NDArray[np.uint8]:
        """Pictures ``(N, height, width, 3)``."""
        raise NotImplementedError(f"{type(self).__name__} has no pictures; leave `render_mode` out.")


def streams(seeds: NDArray[np.uint64]) -> Words:
    """The stream of random numbers that belongs to each seed.

    >>> len(set(streams(np.arange(1000, dtype=np.uint64)).tolist()))
    1000
    """
    return _mixed(seeds + _GOLDEN)


def draw(random: Words, count: int) -> tuple[NDArray[np.float64], Words]:
    r"""The next ``count`` numbers of each stream, uniform in [0, 1), and the streams after them.

    Shape: ``(N,) -> (N, count), (N,)``.
    Source: SplitMix64 of Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators",
    figure 17. Departs from it: no.

    >>> random = streams(np.arange(2, dtype=np.uint64))
    >>> first, random = draw(random, 3)
    >>> first.shape, bool((draw(random, 3)[0] != first).all())
    ((2, 3), True)
    """
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN  # arrays wrap around, scalars warn
    words = _mixed(random[:, None] + steps)
    return np.ldexp((words >> np.uint64(11)).astype(np.float64), -53), random + steps[-1]


def _mixed(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def painted(colours: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """Pictures of grids: cells ``(N, rows, columns, 3)`` as squares of as many pixels.

    >>> painted(np.zeros((1, 2, 3, 3), dtype=np.uint8), 8).shape
    (1, 16, 24, 3)
    """
    return colours.repeat(pixels, axis=1).repeat(pixels, axis=2)

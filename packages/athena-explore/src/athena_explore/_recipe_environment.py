"""What the recipe `explore` runs in: any environment of Gymnasium, and the map of where it has been."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from athena_core import AthenaError
from athena_core.environments import VisitMap

_WIDEST = 1e6  # a bound beyond it says "none"
_BINS = 32  # an axis of a continuous map


class Places(NamedTuple):
    """How visits of an environment are mapped.

    >>> Places(VisitMap([0], [1], [5]), mark=lambda: 0.5, points=np.array).points([0.5, 0.6]).tolist()
    [0.5, 0.6]
    """

    visits: VisitMap  # empty
    mark: Callable[[], Any]  # what tells where the environment is now, of no more use once it steps
    points: Callable[[list[Any]], NDArray[np.float64]]  # marks on the map, (visits, D)


class Made(NamedTuple):
    """An environment, and how its visits are mapped, where they can be.

    >>> made = make_environment("MountainCar-v0")
    >>> made.places.visits.bins
    (32, 32)
    """

    env: gym.Env[Any, Any]
    places: Places | None


class _Latest(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the latest observation, below wrappers that change it."""

    observation: Any = None

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        self.observation, info = self.env.reset(**options)
        return self.observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        step = self.env.step(action)
        self.observation = step[0]
        return step


def make_environment(
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    rescale: bool = False,
    render_mode: str | None = None,
) -> Made:
    """An environment by its id.

    Args:
        name: the id; ``module:id`` imports a module that registers it first.
        options: for ``gymnasium.make``.
        wrappers: classes put around it in this order, each as ``module:Class``.
        rescale: bring observations in a bounded Box of floats to [-1, 1].
        render_mode: for ``gymnasium.make``.

    Raises AthenaError for what cannot be made.

    >>> make_environment("FrozenLake-v1", options={"map_name": "8x8"}).places.visits.bins
    (64,)
    """
    known = {} if render_mode is None else {"render_mode": render_mode}
    try:
        inner = _Latest(gym.make(name, **known, **(options or {})))
        env: gym.Env[Any, Any] = inner
        for wrapper in wrappers:
            module, _, kind = wrapper.partition(":")
            env = getattr(importlib.import_module(module), kind)(env)
    except (gym.error.Error, ImportError, AttributeError, TypeError, ValueError, AssertionError) as error:
        raise AthenaError(f"`env` {name!r} cannot be made: {' '.join(str(error).split())}") from error
    if rescale and _bounded(env.observation_space):
        env = gym.wrappers.RescaleObservation(env, np.float32(-1), np.float32(1))
    return Made(env, _places(inner))


def _bounded(space: spaces.Space[Any]) -> bool:
    return (
        isinstance(space, spaces.Box)
        and space.dtype.kind == "f"  # pyright: ignore[reportOptionalMemberAccess]
        and bool((np.abs(np.stack((space.low, space.high))) < _WIDEST).all())
    )


def _places(env: _Latest) -> Places | None:
    base: Any = env.unwrapped
    space = env.observation_space

    def observed() -> Any:
        return np.array(env.observation)

    if hasattr(base, "visit_map") and hasattr(base, "position"):  # as `NumpyEnv` has
        return Places(base.visit_map(), observed, lambda marks: base.position(np.stack(marks)))
    if hasattr(base, "agent_pos") and hasattr(base, "width") and hasattr(base, "height"):  # as MiniGrid has
        return _grid(base)
    if isinstance(space, spaces.Discrete):
        low, high = [space.start - 0.5], [space.start + space.n - 0.5]
        return Places(VisitMap(low, high, [int(space.n)]), observed, lambda marks: np.stack(marks)[:, None])
    if isinstance(space, spaces.Box) and _bounded(space) and space.shape == (2,):
        return Places(VisitMap(space.low, space.high, [_BINS] * 2), observed, np.stack)
    return None


def _grid(base: Any) -> Places:
    """Cells as (row, column); the outer wall is never entered."""
    shape = base.height, base.width
    reachable = np.zeros(shape, dtype=np.bool_)
    reachable[1:-1, 1:-1] = True
    visits = VisitMap([-0.5] * 2, np.subtract(shape, 0.5), shape, reachable=reachable)
    return Places(visits, lambda: tuple(base.agent_pos), lambda marks: np.array(marks)[:, ::-1])

"""One environment by rules over arrays."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from athena_explore._dynamics import Dynamics, State, streams
from athena_explore._visit_map import VisitMap


class NumpyEnv(gym.Env[Any, Any]):
    """One environment by the rules of `Dynamics`: the same, step for step, as a row of `NumpyVectorEnv`.

    The seed of `reset` chooses the environment's stream of random numbers; ``np_random`` does so where no
    seed is ever given. No limit of time: `gymnasium.make` wraps the registered ones in a ``TimeLimit``.

    Args:
        dynamics: the rules.
        render_mode: "rgb_array", or None for no pictures.

    Raises ValueError for an unknown mode, an action outside the space or options of `reset`;
    gymnasium.error.ResetNeeded for a step before `reset` or after a termination.

    >>> from athena_explore import DeepSea
    >>> env = NumpyEnv(DeepSea(size=2))
    >>> env.reset(seed=0)
    (array([1., 0., 0., 0.], dtype=float32), {})
    >>> env.step(1)
    (array([0., 0., 0., 1.], dtype=float32), -0.005, False, False, {})
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012  # Gymnasium's type

    def __init__(self, dynamics: Dynamics, *, render_mode: str | None = None) -> None:
        check_render_mode(render_mode)
        self.dynamics, self.render_mode = dynamics, render_mode
        self.observation_space, self.action_space = dynamics.observation_space, dynamics.action_space
        self._state: State | None = None
        self._terminated = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if options:
            raise ValueError(f"`options` must be empty; got {', '.join(map(repr, options))}.")
        if seed is not None:
            random = streams(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
        elif self._state is None:
            random = self.np_random.integers(2**64, size=1, dtype=np.uint64)
        else:
            random = self._state["random"]
        self._state, self._terminated = self.dynamics.start(random), False
        return self._observation(self._state), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        state = self._started()
        if self._terminated:
            raise ResetNeeded("`step` needs an episode under way; this one has terminated. Call `reset`.")
        actions = np.asarray(action)
        if actions.shape != ():
            raise ValueError(f"`action` must be one number; got the shape {actions.shape}.")
        actions = checked_actions(actions[None], self.dynamics.action_space)
        after, reward, terminated = self.dynamics.advance(state, actions)
        self._state, self._terminated = after, bool(terminated[0])
        return self._observation(after), float(reward[0]), self._terminated, False, {}

    def render(self) -> NDArray[np.uint8] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A picture ``(height, width, 3)``; None without a `render_mode`."""
        return None if self.render_mode is None else self.dynamics.frames(self._started())[0]

    def position(self, observation: Any) -> NDArray[np.float64]:
        """Where observations ``(..., *shape)`` are on the map of visits, ``(..., 2)``; NaN is nowhere."""
        return self.dynamics.position(observation)

    def visit_map(self) -> VisitMap:
        """A map without visits, whose cells suit `position`."""
        return self.dynamics.visit_map()

    def _started(self) -> State:
        if self._state is None:
            raise ResetNeeded("`step` and `render` need an episode; there is none yet. Call `reset`.")
        return self._state

    def _observation(self, state: State) -> Any:
        return self.dynamics.observe(state)[0]


def check_render_mode(render_mode: str | None) -> None:
    """Raises ValueError for a mode there is not."""
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f'`render_mode` must be "rgb_array" or None; got {render_mode!r}.')


def checked_actions(actions: NDArray[Any], space: spaces.Discrete) -> NDArray[np.int64]:
    """Actions ``(N,)`` as int64. Raises ValueError for what lies outside the space.

    >>> checked_actions(np.array([0, 1], dtype=np.int32), spaces.Discrete(2))
    array([0, 1])
    """
    if actions.dtype.kind not in "iu":
        raise ValueError(f"actions must be whole numbers; got {actions.dtype}. Choose from {space}.")
    if actions.size and not (actions.min() >= 0 and actions.max() < space.n):
        raise ValueError(f"actions must lie in {space}; got {actions.min()} to {actions.max()}.")
    return actions.astype(np.int64, copy=False)

"""One environment by rules over arrays."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from athena_core.environments._dynamics import Dynamics, State, streams
from athena_core.environments._visit_map import VisitMap


class NumpyEnv(gym.Env[Any, Any]):
    """One environment by the rules of `Dynamics`: the same, step for step, as a row of `NumpyVectorEnv`.

    The seed of `reset` chooses the environment's stream of random numbers; ``np_random`` does so where no
    seed is ever given. The ``time_limit`` of the rules is not applied: `gymnasium.make` wraps the registered
    ones in a ``TimeLimit``.

    Args:
        dynamics: the rules.
        max_episode_steps: after as many an episode is truncated; None is never.
        render_mode: "rgb_array", or None for no pictures.

    Raises ValueError for a limit below 1, an unknown mode, an action outside the space or options of `reset`;
    gymnasium.error.ResetNeeded for a step before `reset` or after a termination.

    >>> from athena_core.environments import Advanced
    >>> class Line(Dynamics):
    ...     observation_space, action_space = spaces.Discrete(3), spaces.Discrete(2)
    ...
    ...     def start(self, random):
    ...         return {"random": random, "place": np.zeros(len(random), dtype=np.int64)}
    ...
    ...     def advance(self, state, action):
    ...         place = np.clip(state["place"] + 2 * action - 1, 0, 2)
    ...         return Advanced({**state, "place": place}, (place == 2).astype(float), place == 2)
    ...
    ...     def observe(self, state):
    ...         return state["place"].copy()
    >>> env = NumpyEnv(Line())
    >>> env.reset(seed=0)
    (np.int64(0), {})
    >>> env.step(1), env.step(1)
    ((np.int64(1), 0.0, False, False, {}), (np.int64(2), 1.0, True, False, {}))
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012  # Gymnasium's type

    def __init__(
        self, dynamics: Dynamics, *, max_episode_steps: int | None = None, render_mode: str | None = None
    ) -> None:
        check_render_mode(render_mode)
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"`max_episode_steps` must be at least 1; got {max_episode_steps}.")
        self.max_episode_steps = max_episode_steps
        self.dynamics, self.render_mode = dynamics, render_mode
        self.observation_space, self.action_space = dynamics.observation_space, dynamics.action_space
        self._state: State | None = None
        self._terminated, self._elapsed = False, 0

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
        self._state, self._terminated, self._elapsed = self.dynamics.start(random), False, 0
        return self._observation(self._state), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        state = self._started()
        if self._terminated:
            raise ResetNeeded("`step` needs an episode under way; this one has terminated. Call `reset`.")
        actions, shape = np.asarray(action), self.action_space.shape
        if actions.shape != shape:
            wanted = f"have the shape {shape}" if shape else "be one number"
            raise ValueError(f"`action` must {wanted}; got the shape {actions.shape}.")
        actions = checked_actions(actions[None], self.dynamics.action_space)
        after, reward, terminated = self.dynamics.advance(state, actions)
        self._state, self._terminated = after, bool(terminated[0])
        self._elapsed += 1
        truncated = self.max_episode_steps is not None and self._elapsed >= self.max_episode_steps
        return self._observation(after), float(reward[0]), self._terminated, truncated, {}

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
        return rows_of(self.dynamics.observe(state), 0)


def check_render_mode(render_mode: str | None) -> None:
    """Raises ValueError for a mode there is not."""
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f'`render_mode` must be "rgb_array" or None; got {render_mode!r}.')


def rows_of(observation: Any, rows: Any) -> Any:
    """Some rows of observations: of an array, or of each array in a dictionary.

    >>> rows_of({"a": np.arange(3)}, np.array([0, 2]))
    {'a': array([0, 2])}
    """
    if isinstance(observation, dict):
        return {name: rows_of(part, rows) for name, part in observation.items()}
    return observation[rows]


def checked_actions(actions: NDArray[Any], space: spaces.Discrete | spaces.Box) -> NDArray[Any]:
    """Actions ``(N, *shape)`` as a step takes them: int64 of a Discrete space; of a Box, clipped to it.

    Raises ValueError for whole numbers outside the space, and for NaN.

    >>> checked_actions(np.array([0, 1], dtype=np.int32), spaces.Discrete(2))
    array([0, 1])
    >>> checked_actions(np.array([[2.0]]), spaces.Box(-1, 1, (1,)))
    array([[1.]], dtype=float32)
    """
    if isinstance(space, spaces.Box):
        if actions.dtype.kind not in "iuf" or np.isnan(actions).any():
            raise ValueError(f"actions must be numbers, none NaN; got {actions}. Choose from {space}.")
        return np.clip(actions, space.low, space.high).astype(space.dtype)
    if actions.dtype.kind not in "iu":
        raise ValueError(f"actions must be whole numbers; got {actions.dtype}. Choose from {space}.")
    if actions.size and not (actions.min() >= 0 and actions.max() < space.n):
        raise ValueError(f"actions must lie in {space}; got {actions.min()} to {actions.max()}.")
    return actions.astype(np.int64, copy=False)

"""Many environments at once by rules over arrays, in the three ways of starting again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from athena_core.environments._dynamics import Dynamics, State, Words, streams
from athena_core.environments._numpy_env import check_render_mode, checked_actions, rows_of
from athena_core.environments._visit_map import VisitMap

#: what a step of a vector environment gives: observations, rewards, terminated, truncated, infos
Step = tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class NumpyVectorEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """``num_envs`` environments by the rules of `Dynamics`, without a loop over them.

    It is to a ``SyncVectorEnv`` of `NumpyEnv` what a product of matrices is to a loop: observations, rewards,
    ends and infos are the same, for the same seeds and actions, in each mode. Row ``i`` has the seed
    ``seed + i``.

    - NEXT_STEP: the step after an end ignores the row's action, starts it again, and gives reward 0.
    - SAME_STEP: the step that ends a row also starts it again; the last observation is in
      ``info["final_obs"]``.
    - DISABLED: whoever steps also calls ``reset(options={"reset_mask": mask})``; steps of ended rows raise.

    Args:
        dynamics: the rules.
        num_envs: rows.
        max_episode_steps: after as many an episode is truncated; None is the ``time_limit`` of the rules.
        autoreset_mode: an ``AutoresetMode`` or its value: "NextStep", "SameStep", "Disabled".
        render_mode: "rgb_array", or None for no pictures.

    Raises ValueError for numbers below 1, unknown modes, actions outside the space, other seeds or options;
    gymnasium.error.ResetNeeded for a step before `reset`, or of an ended row in DISABLED.

    >>> from gymnasium import spaces
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
    >>> env = NumpyVectorEnv(Line(), 1000, autoreset_mode="SameStep")
    >>> observation, _ = env.reset(seed=0)
    >>> observation.shape, env.metadata["autoreset_mode"]
    ((1000,), <AutoresetMode.SAME_STEP: 'SameStep'>)
    """

    resets_in_part = True  # by `reset_mask`, in any mode

    def __init__(
        self,
        dynamics: Dynamics,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        limit = dynamics.time_limit if max_episode_steps is None else max_episode_steps
        for name, value in (("num_envs", num_envs), ("max_episode_steps", limit)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1; got {value}.")
        check_render_mode(render_mode)
        self.dynamics, self.num_envs, self.render_mode = dynamics, num_envs, render_mode
        self.autoreset_mode = _mode(autoreset_mode)
        self.metadata = {
            "render_modes": ["rgb_array"],
            "render_fps": 15,
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_observation_space = dynamics.observation_space
        self.single_action_space = dynamics.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.max_episode_steps = limit
        self._state: State | None = None
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=np.bool_)  # rows that wait for their reset; none in SAME_STEP

    @staticmethod
    def split_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Keyword arguments of this class, and the others, which are those of the rules."""
        names = "max_episode_steps", "autoreset_mode", "render_mode"
        own = {name: value for name, value in options.items() if name in names}
        return own, {name: value for name, value in options.items() if name not in names}

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start all rows, or those of ``options["reset_mask"]``; the observations of all."""
        rows = self._reset_rows(options)
        super().reset(seed=seed if isinstance(seed, int) else None)
        random = self._random(seed)
        if self._state is None:
            self._state = self.start_rows(random, np.arange(self.num_envs))
        else:
            self._restart(self._state, rows, random)
        self._elapsed[rows], self._ended[rows] = 0, False
        return self.dynamics.observe(self._state), {}

    def step(self, actions: Any) -> Step:
        before = self._started()
        actions, shape = np.asarray(actions), self.action_space.shape
        if actions.shape != shape:
            raise ValueError(f"`actions` must have the shape {shape}; got {actions.shape}. Give one a row.")
        actions = checked_actions(actions, self.dynamics.action_space)
        waiting = self._ended
        if self.autoreset_mode is AutoresetMode.DISABLED and waiting.any():
            raise ResetNeeded(
                f"`step` needs episodes under way; rows {np.flatnonzero(waiting).tolist()} have ended. "
                'Call `reset(options={"reset_mask": mask})`.'
            )
        state, reward, terminated = self.dynamics.advance(before, actions)
        self._elapsed += 1
        truncated = self._elapsed >= (self.max_episode_steps or np.inf)
        if waiting.any():
            self._restart(state, waiting, before["random"])
            reward[waiting], terminated[waiting], truncated[waiting] = 0, False, False
        self._state, self._ended = state, terminated | truncated
        observation, info = self.dynamics.observe(state), {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._ended.any():
            info = self._start_again(state, observation)
        return observation, reward, terminated, truncated, info

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A picture ``(height, width, 3)`` of each row; None without a `render_mode`."""
        return None if self.render_mode is None else tuple(self.dynamics.frames(self._started()))

    def position(self, observation: Any) -> NDArray[np.float64]:
        """Where observations ``(..., *shape)`` are on the map of visits, ``(..., 2)``; NaN is nowhere."""
        return self.dynamics.position(observation)

    def visit_map(self) -> VisitMap:
        """A map without visits, whose cells suit `position`."""
        return self.dynamics.visit_map()

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on, as arrays. Raises gymnasium.error.ResetNeeded before `reset`."""
        state = {name: value.copy() for name, value in self._started().items()}
        return {"state": state, "elapsed": self._elapsed.copy(), "ended": self._ended.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`. Raises ValueError for that of another number of environments."""
        if len(state["elapsed"]) != self.num_envs:
            raise ValueError(
                f"`state` must be of {self.num_envs} environments; got {len(state['elapsed'])}. Make as many."
            )
        # Not np.array, which warns of the tensors that a checkpoint makes of arrays.
        self._state = {name: np.asarray(value).copy() for name, value in state["state"].items()}
        self._elapsed, self._ended = (np.asarray(state[name]).copy() for name in ("elapsed", "ended"))

    def start_rows(self, random: Words, rows: NDArray[np.intp]) -> State:  # noqa: ARG002  # for those who override it
        """States at the start of an episode of these rows; a subclass may tell rows apart here."""
        return self.dynamics.start(random)

    def _start_again(self, state: State, observation: Any) -> dict[str, Any]:
        """Start ended rows of a state and their observations, in place; the info of their last step."""
        ended, self._ended = self._ended, np.zeros_like(self._ended)
        final = np.full(self.num_envs, None, dtype=object)
        rows = np.flatnonzero(ended)
        last = rows_of(observation, rows)
        for place, row in enumerate(rows):
            final[row] = rows_of(last, place)
        self._restart(state, ended, state["random"])
        _put(observation, rows, self.dynamics.observe({name: value[rows] for name, value in state.items()}))
        return {"final_obs": final, "_final_obs": ended, "final_info": {}, "_final_info": ended.copy()}

    def _restart(self, state: State, rows: NDArray[np.bool_], random: Words) -> None:
        for name, value in self.start_rows(random[rows], np.flatnonzero(rows)).items():
            state[name][rows] = value
        self._elapsed[rows] = 0

    def _random(self, seed: int | Sequence[int | None] | None) -> Words:
        if isinstance(seed, int):
            first = np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
            return streams(first + np.arange(self.num_envs, dtype=np.uint64))
        if self._state is None:
            random = self.np_random.integers(2**64, size=self.num_envs, dtype=np.uint64)
        else:
            random = self._state["random"].copy()
        if seed is not None:
            if len(seed) != self.num_envs or any(one is not None and one < 0 for one in seed):
                raise ValueError(
                    f"`seed` must be a number or {self.num_envs} of them, none below 0; got {list(seed)}."
                )
            rows = [row for row, one in enumerate(seed) if one is not None]
            given = [one & 0xFFFFFFFFFFFFFFFF for one in seed if one is not None]
            random[rows] = streams(np.array(given, dtype=np.uint64))
        return random

    def _reset_rows(self, options: dict[str, Any] | None) -> NDArray[np.bool_]:
        mask = reset_mask(options, self.num_envs)
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        if self._state is None:
            raise ResetNeeded("`reset_mask` needs episodes; there are none yet. Call `reset()` first.")
        return mask

    def _started(self) -> State:
        if self._state is None:
            raise ResetNeeded("`step` and `render` need episodes; there are none yet. Call `reset`.")
        return self._state


def reset_mask(options: dict[str, Any] | None, num_envs: int) -> NDArray[np.bool_] | None:
    """The rows that the options of `reset` name, None for all. Raises ValueError for what is no mask.

    >>> reset_mask({"reset_mask": np.array([True, False])}, 2)
    array([ True, False])
    """
    options = dict(options or {})
    mask = options.pop("reset_mask", None)
    if options:
        raise ValueError(f'`options` may hold "reset_mask" alone; got {", ".join(map(repr, options))}.')
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.shape != (num_envs,) or mask.dtype != np.bool_ or not mask.any():
        raise ValueError(
            f"`reset_mask` must be booleans of the shape ({num_envs},), not all False; got {mask.dtype} of "
            f"{mask.shape}, {np.count_nonzero(mask)} of them True."
        )
    return mask


def _put(observation: Any, rows: NDArray[np.intp], values: Any) -> None:
    """Set rows of an array, or of each array in a dictionary, in place."""
    if isinstance(observation, dict):
        for name, part in observation.items():
            _put(part, rows, values[name])
    else:
        observation[rows] = values


def _mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        allowed = ", ".join(repr(one.value) for one in AutoresetMode)
        raise ValueError(f"`autoreset_mode` must be one of {allowed}; got {mode!r}.") from error

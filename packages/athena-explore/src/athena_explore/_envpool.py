"""EnvPool's environments as a Gymnasium vector environment."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from athena_core import AthenaError
from athena_core.environments import Step, checked_actions, reset_mask

_NOT_INFO = "env_id", "players"  # EnvPool's own numbering


class EnvPoolVectorEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """``num_envs`` environments of EnvPool, in C++ threads, as Gymnasium has vector environments.

    EnvPool's own objects for Gymnasium give unbatched spaces, infos without masks, float32 rewards, and, of a
    partial reset, the rows that were reset alone; they take no seed in `reset`. Here these are Gymnasium's.
    The autoreset mode is NEXT_STEP: the step after an end ignores the row's action and gives reward 0.

    An episode that reaches its goal in the very step of its time limit counts as truncated: EnvPool does not
    say more. Observations of MiniGrid are dictionaries of ``direction``, ``image`` and ``mission``, a text
    of 96 bytes; the place of the agent is in ``info["agent_pos"]``.

    Args:
        id: one of ``envpool.list_all_envs()``, such as "MiniGrid-DoorKey-8x8-v0".
        num_envs: rows.
        seed: row ``i`` has the seed ``seed + i``, until `reset` is given another.
        observation_keys: of dictionaries, the parts to keep: one name gives that part alone, several a
            dictionary. None keeps all.
        options: EnvPool's, such as ``num_threads``, ``max_episode_steps``, or ``render_mode="rgb_array"``.

    Raises AthenaError without envpool, with the command that installs it; ValueError for an unknown id or
    key, environments of several players, actions outside the space, or a partial reset with a seed.

    >>> import importlib.util
    >>> if importlib.util.find_spec("envpool"):  # the extra is installed
    ...     env = EnvPoolVectorEnv("MiniGrid-DoorKey-8x8-v0", 4, observation_keys="image", num_threads=1)
    ...     assert env.reset()[0].shape == env.observation_space.shape == (4, 7, 7, 3)
    """

    resets_in_part = True  # by `reset_mask`

    def __init__(
        self,
        id: str,  # noqa: A002  # Gymnasium's and EnvPool's name for it
        num_envs: int,
        *,
        seed: int = 0,
        observation_keys: str | Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"`num_envs` must be at least 1; got {num_envs}.")
        self.id, self.num_envs, self.options = id, num_envs, options
        self.render_mode = options.get("render_mode")
        self.metadata = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.NEXT_STEP}
        self._pool = self._make(seed)
        self._keys = observation_keys
        self.single_observation_space = self._picked_space(self._pool.observation_space)
        self.single_action_space = self._pool.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._latest: Any = None  # observations, of which a partial reset changes some rows

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start all rows, or those of ``options["reset_mask"]``; the observations of all."""
        rows = self._reset_rows(seed, options)
        super().reset(seed=seed if isinstance(seed, int) else None)
        if seed is not None:  # EnvPool knows seeds when it makes environments, only
            self._pool = self._make(seed)
        observation, info = self._pool.reset(rows)
        rows = info["env_id"]
        self._latest = self._placed(self._picked(observation), rows)
        return self._latest, self._info(info, rows)

    def step(self, actions: Any) -> Step:
        actions = np.asarray(actions)
        shape = self.action_space.shape
        if actions.shape != shape:
            raise ValueError(f"`actions` must have the shape {shape}; got {actions.shape}. Give one a row.")
        if isinstance(self.single_action_space, spaces.Discrete):
            actions = checked_actions(actions, self.single_action_space)
        observation, reward, terminated, truncated, info = self._pool.step(actions)
        self._latest = self._picked(observation)
        info = self._info(info, info["env_id"])
        return self._latest, reward.astype(np.float64), terminated, truncated, info

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A picture ``(height, width, 3)`` of each row; None without a `render_mode`."""
        return None if self.render_mode is None else tuple(self._pool.render(np.arange(self.num_envs)))

    def close_extras(self, **_: Any) -> None:
        self._pool.close()

    def _make(self, seed: int | Sequence[int]) -> Any:
        try:
            import envpool  # pyright: ignore[reportMissingImports]  # an extra
        except ImportError as error:
            raise AthenaError(
                "`EnvPoolVectorEnv` needs envpool: run `pip install 'athena-explore[envpool]'`."
            ) from error
        if self.id not in envpool.list_all_envs():
            raise ValueError(f"`id` must be one of `envpool.list_all_envs()`; got {self.id!r}.")
        seeds = seed if isinstance(seed, int) else list(seed)
        with warnings.catch_warnings():
            # EnvPool gives float64 bounds to spaces of float32, here and where they are first asked for.
            warnings.filterwarnings("ignore", message=".*precision lowered by casting")
            pool: Any = envpool.make_gymnasium(self.id, num_envs=self.num_envs, seed=seeds, **self.options)
            _ = pool.observation_space, pool.action_space
        if pool.config["max_num_players"] > 1:
            raise ValueError(f"`id` must be of one player; got {self.id!r}. Use EnvPool's own interface.")
        return pool

    def _picked_space(self, space: spaces.Space) -> spaces.Space:
        if self._keys is None:
            return space
        known = list(space) if isinstance(space, spaces.Dict) else []
        asked = [self._keys] if isinstance(self._keys, str) else list(self._keys)
        if not (asked and set(asked) <= set(known)):
            raise ValueError(
                f"`observation_keys` must be among the parts of the observation, {known}; got {asked}."
            )
        assert isinstance(space, spaces.Dict)
        return space[self._keys] if isinstance(self._keys, str) else spaces.Dict({k: space[k] for k in asked})

    def _picked(self, observation: Any) -> Any:
        if self._keys is None:
            return observation
        if isinstance(self._keys, str):
            return observation[self._keys]
        return {key: observation[key] for key in self._keys}

    def _placed(self, observation: Any, rows: NDArray[np.int32]) -> Any:
        """Observations of some rows among the latest of the others."""
        if len(rows) == self.num_envs:
            return observation
        if isinstance(observation, dict):
            pairs = {key: (observation[key], self._latest[key]) for key in observation}
            return {key: _with_rows(latest, rows, part) for key, (part, latest) in pairs.items()}
        return _with_rows(self._latest, rows, observation)

    def _info(self, info: dict[str, Any], rows: NDArray[np.int32]) -> dict[str, Any]:
        """EnvPool's info with a mask for each key, as Gymnasium has it."""
        mask = np.zeros(self.num_envs, dtype=np.bool_)
        mask[rows] = True
        infos: dict[str, Any] = {}
        for key, value in info.items():
            if key in _NOT_INFO:
                continue
            if len(rows) < self.num_envs:
                blank = np.zeros((self.num_envs, *value.shape[1:]), dtype=value.dtype)
                infos[key] = _with_rows(blank, rows, value)
            else:
                infos[key] = value
            infos[f"_{key}"] = mask.copy()
        return infos

    def _reset_rows(
        self, seed: int | Sequence[int] | None, options: dict[str, Any] | None
    ) -> NDArray[np.int32]:
        mask = reset_mask(options, self.num_envs)
        if isinstance(seed, Sequence) and len(seed) != self.num_envs:
            raise ValueError(f"`seed` must be a number or {self.num_envs} of them; got {list(seed)}.")
        if mask is None:
            return np.arange(self.num_envs, dtype=np.int32)
        if seed is not None or self._latest is None:
            raise ValueError(
                "`reset_mask` needs episodes under way, and no seed: EnvPool seeds all rows or none. Call "
                "`reset()` or `reset(seed=seed)` first."
            )
        return np.flatnonzero(mask).astype(np.int32)


def _with_rows(array: NDArray[Any], rows: NDArray[np.int32], values: NDArray[Any]) -> NDArray[Any]:
    array = array.copy()
    array[rows] = values
    return array

"""Gymnasium's vector environments as vector environments of Stable-Baselines3. Needs the extra ``sb3``."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from torch.utils._pytree import tree_map

from athena_core._errors import AthenaError
from athena_core.environments._autoreset import autoreset_mode, final_observations

try:
    from stable_baselines3.common.env_util import is_wrapped
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
except ModuleNotFoundError as error:
    raise AthenaError(
        "`athena_core.environments.sb3` needs stable-baselines3: run `pip install 'athena-core[sb3]'`."
    ) from error

Info = dict[str, Any]


class GymnasiumVecEnv(VecEnv):
    """A vector environment of Gymnasium for Stable-Baselines3's algorithms, without a loop over its rows.

    A row that ended starts again in the same step, as Stable-Baselines3 has it: its last observation is
    ``info["terminal_observation"]``. In the mode SAME_STEP the environment does so itself. In DISABLED its
    rows are reset here, by ``reset_mask``; in NEXT_STEP too, where that can be done: with Gymnasium's own
    ``SyncVectorEnv`` and ``AsyncVectorEnv``, with those whose attribute ``resets_in_part`` is True, such as
    `NumpyVectorEnv`, and with wrappers of them.

    Ended rows have ``info["episode"]`` with their return ``r``, length ``l`` and time ``t``, as Monitor gives
    them, and ``info["TimeLimit.truncated"]``. Infos are those of the step; those of the reset are in
    ``reset_infos``.

    Args:
        env: the vector environment.

    Raises TypeError for a single environment, ValueError for an autoreset mode that cannot be served.

    >>> import gymnasium as gym
    >>> from stable_baselines3 import PPO
    >>> env = GymnasiumVecEnv(gym.make_vec("CartPole-v1", 8, vectorization_mode="sync"))
    >>> model = PPO("MlpPolicy", env, n_steps=16, device="cpu").learn(256)
    >>> len(model.ep_info_buffer) > 0
    True
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(
                f"`env` must be a vector environment of Gymnasium; got {env}. Take `DummyVecEnv` for others."
            )
        self.env, self.mode = env, autoreset_mode(env)
        if self.mode is AutoresetMode.NEXT_STEP and not _resets_in_part(env):
            raise ValueError(
                f"`env` must start ended rows in the same step, or let them be reset; {env} does so in the "
                "next. Make it with `autoreset_mode=AutoresetMode.SAME_STEP` or DISABLED."
            )
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._actions: Any = None
        self._returns, self._lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
        self._start = time.perf_counter()

    def reset(self) -> VecEnvObs:
        if any(options != self._options[0] for options in self._options):
            raise ValueError(
                f"`options` must be the same for all rows; got {self._options}. Pass one dictionary."
            )
        # Gymnasium gives row i the seed plus i, as `seed` did.
        obs, infos = self.env.reset(seed=self._seeds[0], options=self._options[0] or None)
        self.reset_infos = _by_row(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0, 0
        return tree_map(np.array, obs)

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, terminated, truncated, infos = self.env.step(self._actions)
        obs, done = tree_map(np.array, obs), terminated | truncated
        self._returns += rewards
        self._lengths += 1
        rows = _by_row(infos, self.num_envs)
        if done.any():
            obs, last = self._restarted(obs, infos, rows, done)
            self._note_ends(rows, last, np.flatnonzero(done), truncated & ~terminated)
        return obs, np.asarray(rewards, np.float32), done, rows

    def _restarted(self, obs: Any, infos: Info, rows: list[Info], done: NDArray[np.bool_]) -> tuple[Any, Any]:
        """All observations with ended rows begun again, and the last ones of these rows."""
        ended = np.flatnonzero(done)
        if self.mode is AutoresetMode.SAME_STEP:
            last = tree_map(lambda leaf: leaf.numpy(), final_observations(obs, infos, torch.from_numpy(done)))
            final_infos = _by_row(infos.get("final_info", {}), self.num_envs)
            for row in ended:  # what else is in a row's info is of its reset, or from wrappers
                self.reset_infos[row] = rows[row]
                rows[row] = {**rows[row], **final_infos[row]}
            return obs, last
        last = tree_map(lambda part: part[ended], obs)
        obs, reset_infos = self.env.reset(options={"reset_mask": done.copy()})
        by_row = _by_row(reset_infos, self.num_envs)
        for row in ended:
            self.reset_infos[row] = by_row[row]
        return tree_map(np.array, obs), last

    def _note_ends(
        self, rows: list[Info], last: Any, ended: NDArray[np.int64], cut: NDArray[np.bool_]
    ) -> None:
        elapsed = round(time.perf_counter() - self._start, 6)
        for place, row in enumerate(ended):
            rows[row]["terminal_observation"] = tree_map(lambda part: part[place], last)  # noqa: B023  # used at once
            rows[row]["TimeLimit.truncated"] = bool(cut[row])
            rows[row]["episode"] = {
                "r": round(float(self._returns[row]), 6),
                "l": int(self._lengths[row]),
                "t": elapsed,
            }
        self._returns[ended], self._lengths[ended] = 0, 0

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> list[NDArray[np.uint8] | None]:
        return list(self.env.render() or [None] * self.num_envs)  # pyright: ignore[reportReturnType]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each row; where all rows are one environment, its own."""
        rows = list(self._get_indices(indices))
        if self._envs is not None:
            return [self._envs[row].get_wrapper_attr(attr_name) for row in rows]
        if hasattr(self.env, attr_name):
            return [getattr(self.env, attr_name)] * len(rows)
        found = self._of_workers("get_attr", attr_name)(attr_name)
        return [found[row] for row in rows]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        rows = list(self._get_indices(indices))
        if self._envs is not None:
            for row in rows:
                self._envs[row].set_wrapper_attr(attr_name, value)
        else:
            self._of_workers("set_attr", attr_name, rows)(attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """What a method of each row returns; where all rows are one environment, its own is called once."""
        rows = list(self._get_indices(indices))
        if self._envs is not None:
            methods = [self._envs[row].get_wrapper_attr(method_name) for row in rows]
            return [method(*method_args, **method_kwargs) for method in methods]
        if not hasattr(self.env.unwrapped, "call") and hasattr(self.env, method_name):  # one for all rows
            return [getattr(self.env, method_name)(*method_args, **method_kwargs)] * len(rows)
        call = self._of_workers("call", method_name, rows)
        return list(call(method_name, *method_args, **method_kwargs))

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Whether rows are wrapped; in Monitor always, since infos have what it gives."""
        rows, envs = list(self._get_indices(indices)), self._envs
        if issubclass(wrapper_class, Monitor):
            return [True] * len(rows)
        return [envs is not None and is_wrapped(envs[row], wrapper_class) for row in rows]

    @property
    def _envs(self) -> list[Any] | None:
        """The single environments, where they are at hand."""
        return getattr(self.env.unwrapped, "envs", None)

    def _of_workers(self, function: str, name: str, rows: list[int] | None = None) -> Any:
        """What `AsyncVectorEnv` has in place of single environments: functions of all rows at once."""
        inside: Any = self.env.unwrapped
        if not hasattr(inside, function):
            raise AttributeError(f"`{name}` must be of each row; {inside} is one environment for all rows.")
        if rows not in (None, list(range(self.num_envs))):
            raise ValueError(f"`indices` must be left out with {inside}, which asks all rows; got {rows}.")
        return getattr(inside, function)


def _resets_in_part(env: VectorEnv[Any, Any, Any]) -> bool:
    """Whether rows can be reset by ``reset_mask`` in any mode."""
    base = env.unwrapped
    return isinstance(base, SyncVectorEnv | AsyncVectorEnv) or getattr(base, "resets_in_part", False)


def _by_row(infos: Info, count: int) -> list[Info]:
    """Infos of arrays and their masks as one dictionary a row."""
    rows: list[Info] = [{} for _ in range(count)]
    for key, value in infos.items():
        if key in ("final_obs", "final_info") or (key.startswith("_") and key[1:] in infos):
            continue
        mask = infos.get(f"_{key}")
        parts = _by_row(value, count) if isinstance(value, dict) else value
        shared = mask is None and (not hasattr(parts, "__len__") or len(parts) != count)
        for row in range(count) if mask is None else np.flatnonzero(mask):
            rows[row][key] = parts if shared else parts[row]
    return rows

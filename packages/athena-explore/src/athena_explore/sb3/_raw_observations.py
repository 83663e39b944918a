"""Observations as environments give them, below a VecNormalize whose statistics drift."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from gymnasium.spaces import Space
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper


class RawObservations:
    """What a vector environment observes, before the innermost VecNormalize that changes observations.

    Its mean and deviation change with every step: a state would have another count today than yesterday.
    Wrappers above it do not reach the bonus either, since they come after it.

    >>> import gymnasium
    >>> from stable_baselines3.common.vec_env import DummyVecEnv
    >>> env = VecNormalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]))
    >>> normal, raw = env.reset(), RawObservations(env)
    >>> bool((raw.now(normal) != normal).any())
    True
    """

    def __init__(self, env: VecEnv) -> None:
        self._normalizer: VecNormalize | None = None
        self.space: Space = env.observation_space
        self._terminal: dict[int, Any] = {}
        inside: Any = env
        while isinstance(inside, VecEnvWrapper):
            if isinstance(inside, VecNormalize) and inside.norm_obs:
                self._normalizer = inside
            inside = inside.venv
        if self._normalizer is not None:
            self.space = self._below(self._normalizer).observation_space

    def now(self, obs: Any) -> Any:
        """The latest observations; ``obs`` are those after all wrappers."""
        return obs if self._normalizer is None else self._normalizer.old_obs

    def terminal(self, environment: int, info: dict[str, Any]) -> Any:
        """The last observation of an episode that ended in the latest step.

        Raises ValueError if the environment kept it to itself.
        """
        found = info.get("terminal_observation")
        if self._normalizer is not None:
            found = self._terminal.get(environment)
        if found is None:
            raise ValueError(
                f"`infos[{environment}]` must hold 'terminal_observation' where an episode ends; got none. "
                "Let the vector environment set it, as those of Stable-Baselines3 do."
            )
        return found

    @staticmethod
    def _below(wrapper: VecEnvWrapper) -> VecEnv:
        return cast(VecEnv, wrapper.venv)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take note of terminal observations before they are normalised, which is done in place."""
        if self._normalizer is None:
            yield
            return
        inside = self._below(self._normalizer)
        step_wait = inside.step_wait

        def heard() -> Any:
            result = step_wait()
            _, _, dones, infos = result
            ended = np.flatnonzero(dones)
            self._terminal = {int(i): infos[i].get("terminal_observation") for i in ended}
            return result

        inside.step_wait = heard  # for as long as a rollout takes; another wrapper would change the chain
        try:
            yield
        finally:
            del inside.step_wait

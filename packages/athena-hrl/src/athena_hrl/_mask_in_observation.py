"""The mask of actions as a part of the observation."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

MASK = "action_mask"


class MaskInObservation(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Adds ``info["action_mask"]`` to the observation, for agents that keep nothing but observations.

    The observation becomes a dictionary: what it was as "observation", or its own parts if it was one, and
    the mask, ``(actions,)``, as "action_mask".

    Raises ValueError for an environment whose actions are not Discrete, or whose observations have such a
    part, and for infos without a mask.

    >>> from athena_hrl import OptionEnv, primitives
    >>> cart = gym.make("CartPole-v1")
    >>> env = MaskInObservation(OptionEnv(cart, primitives(cart)))
    >>> env.reset(seed=0)[0]["action_mask"]
    array([1, 1], dtype=int8)
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        space, actions = env.observation_space, env.action_space
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
        if not isinstance(actions, spaces.Discrete) or MASK in parts:
            raise ValueError(
                f'`env` must have Discrete actions, and no part "{MASK}" in observations; got {actions} and '
                f"{', '.join(parts)}."
            )
        self.observation_space = spaces.Dict({**parts, MASK: spaces.MultiBinary(int(actions.n))})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(observation, info), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_mask(observation, info), reward, terminated, truncated, info

    def _with_mask(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        if MASK not in info:
            raise ValueError(f'`env` must give "{MASK}" in its infos; got none. Wrap it in `OptionEnv`.')
        parts = observation if isinstance(observation, dict) else {"observation": observation}
        mask: NDArray[np.int8] = np.asarray(info[MASK]).astype(np.int8)
        return {**parts, MASK: mask}

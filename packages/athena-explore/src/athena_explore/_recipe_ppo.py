"""The learner `ppo` of the recipe `explore`: Stable-Baselines3's, whose whole state can be saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.utils._pytree import tree_map

from athena_core.environments import ReplayableEnv
from athena_explore._bonus import Bonus
from athena_explore.sb3 import IntrinsicPPO

_SMALLEST_IMAGE = 36  # what the convolutions of CnnPolicy need


class ReplayableVecEnv(DummyVecEnv):
    """Replayable environments for Stable-Baselines3, each of which keeps the seed it was made with.

    >>> import gymnasium as gym
    >>> venv = ReplayableVecEnv([ReplayableEnv(gym.make("CartPole-v1"), seed=0, index=i) for i in range(2)])
    >>> venv.seed(5), venv.reset().shape
    ([0, 0], (2, 4))
    """

    envs: list[ReplayableEnv]

    def __init__(self, envs: Sequence[ReplayableEnv]) -> None:
        super().__init__([lambda env=env: env for env in envs])

    def seed(self, seed: int | None = None) -> Sequence[int | None]:  # noqa: ARG002  the algorithm's own
        return [env.base_seed for env in self.envs]


class PPOLearner:
    """`IntrinsicPPO` a rollout at a time.

    Args:
        envs: to play.
        make_bonus: makes the bonus of a space of observations and one of actions.
        hidden: widths of the layers of the policy and of the value.
        options: of `IntrinsicPPO`.

    >>> import gymnasium as gym
    >>> from athena_explore import RND
    >>> envs = [ReplayableEnv(gym.make("CartPole-v1"), seed=0, index=i) for i in range(2)]
    >>> learner = PPOLearner(envs, RND, hidden=[8], options={"n_steps": 16, "batch_size": 8, "device": "cpu"})
    >>> learner.rollout()
    >>> learner.model.num_timesteps
    32
    """

    def __init__(
        self,
        envs: Sequence[ReplayableEnv],
        make_bonus: Callable[[spaces.Space, spaces.Space], Bonus],
        *,
        hidden: Sequence[int],
        options: Mapping[str, Any],
    ) -> None:
        self.envs = list(envs)
        policy = policy_for(self.envs[0].observation_space)
        architecture = {"policy_kwargs": {"net_arch": list(hidden)}}
        self.model = IntrinsicPPO(policy, ReplayableVecEnv(envs), bonus=make_bonus, **architecture, **options)
        self.bonus = self.model.bonus

    def rollout(self) -> None:
        """Play ``n_steps`` in each environment, and learn from them."""
        self.model.learn(self.model.n_steps * len(self.envs), reset_num_timesteps=False)

    def parts(self) -> dict[str, Any]:
        """What a run saves."""
        policy = self.model.policy
        return {"policy": policy, "optimizer": policy.optimizer, "bonus": self.bonus, "learner": self}

    def state_dict(self) -> dict[str, Any]:
        """What `parts` has besides: the environments, and where the algorithm is in them."""
        model = self.model
        return {
            "envs": [env.state_dict() for env in self.envs],
            "last_obs": model._last_obs,
            "last_episode_starts": model._last_episode_starts,
            "num_timesteps": model.num_timesteps,
            "n_updates": model._n_updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        model = self.model
        for env, saved in zip(self.envs, state["envs"], strict=True):
            env.load_state_dict(saved)
        model._last_obs = tree_map(np.asarray, state["last_obs"])
        model._last_episode_starts = np.asarray(state["last_episode_starts"])
        model.num_timesteps, model._n_updates = state["num_timesteps"], state["n_updates"]


def policy_for(space: spaces.Space[Any]) -> str:
    """The name of Stable-Baselines3's policy for a space of observations.

    >>> (
    ...     policy_for(spaces.Box(0, 255, (84, 84, 3), np.uint8)),
    ...     policy_for(spaces.Box(0, 255, (7, 7, 3), np.uint8)),
    ... )
    ('CnnPolicy', 'MlpPolicy')
    """
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    image = is_image_space(space) and min(sorted(cast(Any, space).shape)[1:]) >= _SMALLEST_IMAGE
    return "CnnPolicy" if image else "MlpPolicy"

"""The flat learner of the recipe `point-maze`: Stable-Baselines3's SAC, whose whole state can be saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import DictReplayBuffer
from torch.utils._pytree import tree_map

from athena_core.environments import NumpyVectorEnv
from athena_core.environments.sb3 import GymnasiumVecEnv

_COUNTS = "num_timesteps", "_n_updates", "_episode_num"
_COLUMNS = "observations", "next_observations", "actions", "rewards", "dones", "timeouts"


class FlatSAC:
    """SAC some steps at a time, on environments with goals.

    Args:
        env: to play.
        seed: of all that is drawn.
        options: of SAC.

    >>> from athena_hrl._point_maze import PointMazeVectorEnv
    >>> env = PointMazeVectorEnv(2, autoreset_mode="Disabled")
    >>> learner = FlatSAC(env, seed=0, options={"learning_starts": 10, "buffer_size": 100, "device": "cpu"})
    >>> learner.learn(20)
    >>> learner.steps
    20
    """

    def __init__(self, env: NumpyVectorEnv, *, seed: int, options: Mapping[str, Any]) -> None:
        self.env = env
        self.model = SAC("MultiInputPolicy", GymnasiumVecEnv(env), seed=seed, **options)

    @property
    def steps(self) -> int:
        """Steps played, of all environments together."""
        return self.model.num_timesteps

    def learn(self, steps: int) -> None:
        """Play as many steps, of all environments together, and learn from them."""
        self.model.learn(steps, reset_num_timesteps=False, log_interval=None)  # pyright: ignore[reportArgumentType]

    def predict(self, observation: Any, memory: Any = None) -> tuple[Any, Any]:
        """The means of the actions for a batch; there is no memory."""
        return self.model.predict(observation, deterministic=True)[0], memory

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizers, replay, environments, and where the algorithm is in them."""
        model, replay = self.model, self._replay()
        filled = replay.size()
        return {
            "policy": model.policy.state_dict(),
            "optimizers": [one.state_dict() for one in self._optimizers()],
            "log_ent_coef": self._log_entropy(),
            "env": None if model._last_obs is None else self.env.state_dict(),
            "last_obs": model._last_obs,
            "replay": {
                name: tree_map(lambda a: a[:filled].copy(), getattr(replay, name)) for name in _COLUMNS
            },
            "place": [replay.pos, replay.full],
            "counts": {name: getattr(model, name) for name in _COUNTS},
            "actions": model.action_space.np_random.bit_generator.state,  # of those at random
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        model, replay = self.model, self._replay()
        model.policy.load_state_dict(state["policy"])
        for one, saved in zip(self._optimizers(), state["optimizers"], strict=True):
            one.load_state_dict(saved)
        if state["log_ent_coef"] is not None:
            self._log_entropy().data.copy_(state["log_ent_coef"])
        if state["env"] is not None:
            self.env.reset()
            self.env.load_state_dict(tree_map(np.asarray, state["env"]))
            model._last_obs = tree_map(np.asarray, state["last_obs"])
        for name in _COLUMNS:
            own, saved = getattr(replay, name), state["replay"][name]
            for whole, part in (
                ((own[key], saved[key]) for key in own) if isinstance(own, dict) else [(own, saved)]
            ):
                whole[: len(part)] = np.asarray(part)
        replay.pos, replay.full = state["place"]
        for name, value in state["counts"].items():
            setattr(model, name, value)
        model.action_space.np_random.bit_generator.state = state["actions"]

    def _replay(self) -> DictReplayBuffer:
        assert isinstance(self.model.replay_buffer, DictReplayBuffer)
        return self.model.replay_buffer

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        model = self.model
        found = [model.actor.optimizer, model.critic.optimizer, model.ent_coef_optimizer]
        return [one for one in found if one is not None]  # a fixed entropy has none

    def _log_entropy(self) -> Any:
        return getattr(self.model, "log_ent_coef", None)

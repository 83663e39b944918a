"""The learner of the recipe `bit-flip`: Stable-Baselines3's DQN, whose whole state can be saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3 import DQN
from torch.utils._pytree import tree_map

from athena_core.environments import NumpyVectorEnv
from athena_core.environments.sb3 import GymnasiumVecEnv
from athena_hrl.sb3 import HindsightReplayBuffer

_COUNTS = "num_timesteps", "_n_updates", "_n_calls", "_episode_num"


class HindsightDQN:
    r"""DQN with `HindsightReplayBuffer`, some steps at a time.

    Exploration goes from every action at random to a share ``epsilon`` in ``exploration_steps``, in a
    straight line, however the steps are divided.

    Args:
        env: to play.
        seed: of all that is drawn.
        epsilon, exploration_steps: of exploration.
        buffer: options of `HindsightReplayBuffer`.
        options: of DQN.

    >>> from athena_hrl._bit_flip import BitFlipVectorEnv
    >>> env = BitFlipVectorEnv(2, bits=3, autoreset_mode="Disabled")
    >>> options = {"learning_starts": 20, "buffer_size": 100, "train_freq": 1, "device": "cpu"}
    >>> learner = HindsightDQN(env, seed=0, epsilon=0.1, exploration_steps=100, buffer={}, options=options)
    >>> learner.learn(50)
    >>> learner.model.num_timesteps, round(learner.model.exploration_rate, 2)
    (50, 0.55)
    """

    def __init__(
        self,
        env: NumpyVectorEnv,
        *,
        seed: int,
        epsilon: float,
        exploration_steps: int,
        buffer: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        self.env = env
        self.model = DQN(
            "MultiInputPolicy",
            GymnasiumVecEnv(env),
            replay_buffer_class=HindsightReplayBuffer,
            replay_buffer_kwargs={**buffer, "seed": seed},
            seed=seed,
            **options,
        )
        model = self.model
        # Its own schedule counts the share of what `learn` was last asked for.
        model.exploration_schedule = lambda _: max(  # pyright: ignore[reportAttributeAccessIssue]
            epsilon, 1 - (1 - epsilon) * model.num_timesteps / max(exploration_steps, 1)
        )

    def learn(self, steps: int) -> None:
        """Play as many steps, of all environments together, and learn from them."""
        self.model.learn(steps, reset_num_timesteps=False, log_interval=None)  # pyright: ignore[reportArgumentType]

    def parts(self) -> dict[str, Any]:
        """What a run saves."""
        policy = self.model.policy
        return {"policy": policy, "optimizer": policy.optimizer, "learner": self}

    def state_dict(self) -> dict[str, Any]:
        """What `parts` has besides: environments, replay, and where the algorithm is in them."""
        model = self.model
        assert isinstance(model.replay_buffer, HindsightReplayBuffer)
        begun = model._last_obs is not None
        return {
            "env": self.env.state_dict() if begun else None,
            "replay": model.replay_buffer.state_dict(),
            "last_obs": model._last_obs,
            "counts": {name: getattr(model, name) for name in _COUNTS},
            "exploration_rate": model.exploration_rate,
            "actions": model.action_space.np_random.bit_generator.state,  # of those at random
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        model = self.model
        assert isinstance(model.replay_buffer, HindsightReplayBuffer)
        if state["env"] is not None:
            self.env.reset()
            self.env.load_state_dict(tree_map(np.asarray, state["env"]))
            model._last_obs = tree_map(np.asarray, state["last_obs"])
        model.replay_buffer.load_state_dict(state["replay"])
        for name, value in state["counts"].items():
            setattr(model, name, value)
        model.exploration_rate = state["exploration_rate"]
        model.action_space.np_random.bit_generator.state = state["actions"]

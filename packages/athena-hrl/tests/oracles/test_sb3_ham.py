"""Stable-Baselines3's algorithms in the environment that machines induce."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from stable_baselines3 import DQN

from athena_hrl import HAM, HAMEnv, act, choose
from athena_hrl.sb3 import smdp_options


def long_or_short(machine):
    """Four steps at once, or one."""
    times = yield choose("times", (1, 4))
    for _ in range(times):
        direction = 1 if machine.state[2] > 0 else 0
        yield act(direction)
    yield choose("again", (0, 1))


def test_dqn_discounts_each_choice_by_its_time() -> None:
    env = HAMEnv(gym.make("CartPole-v1"), HAM(long_or_short), max_points=2, max_choices=2, gamma=0.5)
    model = DQN("MultiInputPolicy", env, device="cpu", learning_starts=50, seed=0, **smdp_options(env))
    model.learn(400)
    stored = model.replay_buffer.discounts[:400, 0]
    points = model.replay_buffer.observations["point"][:400].reshape(400)
    assert set(stored[points == 1]) == {1.0}  # a choice without an action before the next
    assert set(stored[points == 0]) >= {0.5, 0.5**4}
    chosen = model.replay_buffer.actions[:400].reshape(400)
    ended = model.replay_buffer.dones[:400, 0].astype(bool)
    full = (points == 0) & ~ended
    np.testing.assert_array_equal(stored[full], np.where(chosen[full] == 1, 0.5**4, 0.5))

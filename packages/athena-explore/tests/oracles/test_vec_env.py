"""`GymnasiumVecEnv` serves what this package makes: EnvPool's environments, and bonuses below it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from athena_core.environments.sb3 import GymnasiumVecEnv
from athena_explore import EnvPoolVectorEnv, IntrinsicReward, SingleIntrinsicReward
from athena_explore.sb3 import IntrinsicPPO


def test_envpool() -> None:
    env = GymnasiumVecEnv(EnvPoolVectorEnv("CartPole-v1", 4, seed=1, num_threads=1, max_episode_steps=12))
    env.reset()
    draws, ends = np.random.default_rng(0), []
    for _ in range(60):
        obs, _, done, infos = env.step(draws.integers(2, size=4))
        for row in np.flatnonzero(done):
            assert np.abs(obs[row]).max() < 0.051  # where episodes begin
            assert np.abs(infos[row]["terminal_observation"]).max() > 0.051
            ends.append(infos[row]["episode"]["l"])
    assert max(ends) == 12
    assert len(set(ends)) > 1


def test_with_wrappers_above_and_below() -> None:
    below = RecordEpisodeStatistics(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"))
    bonus = IntrinsicReward(below, "rnd", learn_every=16)
    env = VecNormalize(GymnasiumVecEnv(bonus))
    IntrinsicPPO("MlpPolicy", env, bonus="rnd", n_steps=32, device="cpu").learn(128)
    assert bonus.bonus.ready
    _, _, _, infos = env.step(np.zeros(2, int))
    assert infos[0]["intrinsic_reward"] > 0
    returns, lengths = evaluate_policy(
        PPO("MlpPolicy", env, device="cpu"), GymnasiumVecEnv(below), 4, return_episode_rewards=True
    )
    assert returns == lengths  # CartPole gives 1 a step


def test_their_checker_passes_on_the_single_wrapper() -> None:
    check_env(SingleIntrinsicReward(gym.make("MountainCar-v0"), "rnd", coefficient=1.0, learn_every=2))

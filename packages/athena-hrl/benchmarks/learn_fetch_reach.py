"""How many steps FetchReach takes: DDPG with hindsight, tested on episodes of their own.

The bar is a success rate above 95 % within 10,000 steps. It needs the extras ``sb3`` and ``robotics``:

    python benchmarks/learn_fetch_reach.py --seeds 0 1 2

An episode counts as a success if the gripper is at the goal in its last step, as gymnasium-robotics has it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import gymnasium_robotics
import numpy as np
import torch
from stable_baselines3 import DDPG
from stable_baselines3.common.noise import NormalActionNoise

from athena_hrl.sb3 import HindsightReplayBuffer

TEST_SEED = 10_000  # of the first test episode; no run's
BAR = 0.95


def success_rate(model: DDPG, env: gym.Env[Any, Any], episodes: int) -> float:
    """The share of test episodes that end at their goal, with actions that are not drawn."""
    reached = []
    for episode in range(episodes):
        obs, info = env.reset(seed=TEST_SEED + episode)
        ended = False
        while not ended:
            action, _ = model.predict(obs, deterministic=True)
            obs, _, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
        reached.append(info["is_success"])
    return float(np.mean(reached))


def learned(seed: int, *, steps: int, test_every: int, episodes: int) -> list[float]:
    """Success rates of one run, test by test."""
    env, test = gym.make("FetchReach-v4"), gym.make("FetchReach-v4")
    noise = NormalActionNoise(np.zeros(4), np.full(4, 0.2))
    model = DDPG(
        "MultiInputPolicy",
        env,
        replay_buffer_class=HindsightReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 4, "goal_selection_strategy": "future"},
        learning_rate=1e-3,
        learning_starts=500,  # ten episodes
        action_noise=noise,
        buffer_size=steps,
        batch_size=256,
        gamma=0.95,
        tau=0.05,  # as in arXiv:1707.01495; Stable-Baselines3's 0.005 is for far longer training
        policy_kwargs={"net_arch": [64, 64]},
        seed=seed,
        device="cpu",
    )
    found = []
    begun = time.perf_counter()
    for step in range(test_every, steps + 1, test_every):
        model.learn(test_every, reset_num_timesteps=False)
        found.append(success_rate(model, test, episodes))
        print(
            f"seed {seed}  step {step:6,}  success {found[-1]:.2f}  {time.perf_counter() - begun:.0f} s",
            flush=True,
        )
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--test-every", type=int, default=2000)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--json", type=Path, default=Path("learn_fetch_reach.json"))
    chosen = vars(parser.parse_args())
    torch.set_num_threads(1)
    gym.register_envs(gymnasium_robotics)
    file, seeds = chosen.pop("json"), chosen.pop("seeds")
    curves = {seed: learned(seed, **chosen) for seed in seeds}
    above = [next((i + 1 for i, one in enumerate(curve) if one > BAR), None) for curve in curves.values()]
    first = [None if tests is None else tests * chosen["test_every"] for tests in above]
    print(f"above {BAR:.0%} first at step {first}; at the end {[curve[-1] for curve in curves.values()]}")
    file.write_text(json.dumps({"options": chosen, "success": curves}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

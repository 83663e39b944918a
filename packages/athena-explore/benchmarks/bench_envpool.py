"""MiniGrid with EnvPool beside Gymnasium's synchronous vector: 8 DoorKey-8x8, steps alone and end to end.

End to end is a loop as users write it: a policy network chooses, the environments step, and exact counts give
their bonus in every step. The bar is twice the steps a second of Gymnasium's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_explore import Counts, EnvPoolVectorEnv, IntrinsicReward

NAME, ENVIRONMENTS, STEPS = "MiniGrid-DoorKey-8x8-v0", 8, 256


def pool() -> gym.vector.VectorEnv:
    return EnvPoolVectorEnv(NAME, ENVIRONMENTS, observation_keys="image", num_threads=1)


def synchronous() -> gym.vector.VectorEnv:
    from minigrid.wrappers import ImgObsWrapper

    return gym.vector.SyncVectorEnv([lambda: ImgObsWrapper(gym.make(NAME))] * ENVIRONMENTS)


def stepping(env: gym.vector.VectorEnv) -> Callable[[], None]:
    """The environments alone, under drawn actions."""
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 7, (STEPS, ENVIRONMENTS))

    def body() -> None:
        for action in actions:
            env.step(action)

    return body


def end_to_end(env: gym.vector.VectorEnv) -> Callable[[], None]:
    """A policy of two layers, the environments, and counts."""
    rewarded = IntrinsicReward(env, Counts)
    policy = nn.Sequential(nn.Linear(147, 64), nn.Tanh(), nn.Linear(64, 7))
    latest: dict[str, Any] = {"obs": rewarded.reset(seed=0)[0]}

    @torch.no_grad()
    def body() -> None:
        for _ in range(STEPS):
            inputs = torch.as_tensor(latest["obs"]).flatten(1).float()
            action = torch.distributions.Categorical(logits=policy(inputs)).sample()
            latest["obs"] = rewarded.step(action.numpy())[0]

    return body


def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    """Microseconds a step of one environment."""
    for case, make in {"steps alone": stepping, "end to end with counts": end_to_end}.items():
        bodies = [make(pool()), make(synchronous())]
        ours, theirs = medians(repeats, *(partial(seconds, body) for body in bodies))
        scale = 1e6 / (STEPS * ENVIRONMENTS)
        yield row(case, ours=ours * scale, peers={"gymnasium": theirs * scale}, unit="us")


if __name__ == "__main__":
    run(parser(__doc__, repeats=9), rows)

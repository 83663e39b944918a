"""HIRO, HAC and feudal networks on CUDA: they learn there, and act as on the CPU with the same state."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from athena_hrl import HAC, HIRO, Feudal
from athena_hrl._point_maze import PointMazeEnv, PointMazeVectorEnv

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_hiro_learns_there_and_acts_as_here():
    def make(device: str) -> HIRO:
        options = {
            "goal_dims": [0, 1],
            "subgoal_range": 2.0,
            "subgoal_every": 3,
            "warm_up": 20,
            "batch_size": 16,
        }
        env = PointMazeVectorEnv(4, max_episode_steps=7, autoreset_mode="SameStep")
        return HIRO(env, device=device, manager_every=2, **options)

    there, here = make("cuda").learn(80), make("cpu")
    assert there.worker_ring.rows()["state_t"].device.type == "cuda"
    here.load_state_dict(there.state_dict())
    observation = there.rows.env.reset(seed=1)[0]
    np.testing.assert_allclose(there.predict(observation)[0], here.predict(observation)[0], atol=1e-3)
    there.load_state_dict(here.learn(8).state_dict())
    assert there.learn(8).steps == here.steps + 8


def test_hac_learns_there_and_acts_as_here():
    def make(device: str) -> HAC:
        env = gym.wrappers.TimeLimit(PointMazeEnv(), 20)
        return HAC(env, horizon=5, radius=0.3, updates_per_episode=3, device=device)

    there, here = make("cuda").learn(40), make("cpu")
    here.load_state_dict(there.state_dict())
    observation = there.env.reset(seed=1)[0]
    np.testing.assert_allclose(there.predict(observation)[0], here.predict(observation)[0], atol=1e-3)


def test_a_feudal_network_learns_there_and_acts_as_here():
    def make(device: str) -> Feudal:
        env: Any = gym.make_vec("CartPole-v1", 2)
        return Feudal(env, horizon=3, n_steps=8, latent_dim=8, device=device)

    there, here = make("cuda").learn(32), make("cpu")
    here.load_state_dict(there.state_dict())
    observation = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    outputs = [
        one.network(one._input(observation, np.zeros((5, 0), np.float32)), one.network.start(5))
        for one in (there, here)
    ]
    torch.testing.assert_close(outputs[0][0].logits.cpu(), outputs[1][0].logits, atol=1e-3, rtol=1e-3)

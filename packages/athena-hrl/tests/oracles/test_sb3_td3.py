"""TD3's update is that of Stable-Baselines3, from the same weights, batches and noise."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium as gym
import stable_baselines3
import torch
from stable_baselines3.common.logger import Logger

from athena_hrl import TD3, TD3Batch


def copied(peer: stable_baselines3.TD3, ours: TD3) -> None:
    """Give our networks the peer's weights."""
    for network, target in ((peer.actor, ours.actor), (peer.actor_target, ours.target_actor)):
        for weight, other in zip(network.parameters(), target.parameters(), strict=True):
            other.data.copy_(weight)
    for network, target in ((peer.critic, ours.critic), (peer.critic_target, ours.target_critic)):
        for index, q in enumerate(network.q_networks):
            linear = [layer for layer in q if isinstance(layer, torch.nn.Linear)]
            for layer, weight, bias in zip(linear, target.weights, target.biases, strict=True):
                weight.data[index].copy_(layer.weight.T)
                bias.data[index, 0].copy_(layer.bias)


def test_four_updates_equal_those_of_the_peer():
    options = {"learning_rate": 1e-3, "policy_kwargs": {"net_arch": [16, 16]}, "target_policy_noise": 0.0}
    peer = stable_baselines3.TD3("MlpPolicy", gym.make("Pendulum-v1"), device="cpu", seed=0, **options)
    peer.set_logger(Logger(None, []))
    ours = TD3(3, 1, hidden=[16, 16], actor_lr=1e-3, target_noise=0.0)
    copied(peer, ours)
    for _ in range(4):
        batch = TD3Batch(
            torch.randn(8, 3), torch.rand(8, 1) * 2 - 1, torch.randn(8), torch.rand(8), torch.randn(8, 3)
        )
        drawn = SimpleNamespace(
            observations=batch.observation_t,
            actions=batch.action_t,
            next_observations=batch.observation_tp1,
            rewards=batch.reward_tp1[:, None],
            dones=torch.zeros(8, 1),
            discounts=batch.discount_tp1[:, None],
        )
        peer.replay_buffer = SimpleNamespace(sample=lambda *_, drawn=drawn, **__: drawn)
        peer.train(gradient_steps=1, batch_size=8)
        ours.update(batch)
    other = TD3(3, 1, hidden=[16, 16])
    copied(peer, other)
    for name in ("actor", "critic", "target_actor", "target_critic"):
        pairs = zip(getattr(ours, name).parameters(), getattr(other, name).parameters(), strict=True)
        for found, expected in pairs:
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

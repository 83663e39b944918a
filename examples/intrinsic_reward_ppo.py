"""PPO with an intrinsic reward, two value heads and two discounts, in one file and plain torch.

    python examples/intrinsic_reward_ppo.py
    python examples/intrinsic_reward_ppo.py --env_id CartPole-v1 --bonus rnd --autoreset NextStep

As it stands it finds the treasure of a DeepSea of ten rows (return 0.99) within 30,000 steps; with
``--coefficient 0`` it does not.

The bonus takes three lines of the loop: make a `StepReader`, `read` each step, `score` and `update` after the
rollout. Both of Gymnasium's autoreset modes that need no help are the same to it:

- NextStep: the step after an end only resets its row. Such rows are not `valid` and stay out of the losses.
- SameStep: the observation that ended an episode is in the info. The reader finds it there.

The extrinsic return stops where the environment terminates, and goes on from the value of the last
observation where it was truncated. The intrinsic return never stops: what is new in the next episode counts.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal
from torch.utils._pytree import tree_map

from athena_core import create
from athena_explore import Encoder, StepReader, Transition, register_environments, stack_transitions


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="PPO with an intrinsic reward")
    parser.add_argument("--env_id", default="athena/DeepSea-v0")
    parser.add_argument("--bonus", default="counts", help="the name of a bonus: see `athena list`")
    parser.add_argument("--autoreset", default="SameStep", choices=("NextStep", "SameStep"))
    parser.add_argument("--total_steps", type=int, default=40_000)
    parser.add_argument("--num_envs", type=int, default=8)
    parser.add_argument("--num_steps", type=int, default=128, help="of a rollout, in each environment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--gamma", type=float, default=0.999)
    parser.add_argument("--intrinsic_gamma", type=float, default=0.99)
    parser.add_argument("--gae_lambda", type=float, default=0.95)
    parser.add_argument("--coefficient", type=float, default=1.0, help="of the intrinsic advantage")
    parser.add_argument("--extrinsic_coefficient", type=float, default=2.0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--minibatches", type=int, default=4)
    parser.add_argument("--clip", type=float, default=0.2)
    parser.add_argument("--entropy_coefficient", type=float, default=0.001)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(given)


class Agent(nn.Module):
    """A policy with an extrinsic and an intrinsic value, on one encoder of any observation."""

    def __init__(
        self, observation_space: spaces.Space, action_space: spaces.Space, *, width: int = 64
    ) -> None:
        super().__init__()
        self.action_space, self.discrete = action_space, isinstance(action_space, spaces.Discrete)
        if not isinstance(action_space, spaces.Discrete | spaces.Box):
            raise ValueError(f"the actions must be Discrete or Box; got {action_space}.")
        count = int(action_space.n) if self.discrete else int(np.prod(action_space.shape))
        self.encoder = Encoder(observation_space, width, hidden=(width,))
        self.actor, self.log_std = nn.Linear(width, count), nn.Parameter(torch.zeros(count))
        self.extrinsic, self.intrinsic = nn.Linear(width, 1), nn.Linear(width, 1)
        for head, gain in ((self.actor, 0.01), (self.extrinsic, 1.0), (self.intrinsic, 1.0)):
            nn.init.orthogonal_(head.weight, gain)
            nn.init.zeros_(head.bias)

    def forward(self, obs: Any) -> tuple[Distribution, Tensor, Tensor]:
        """The policy, and both values ``(B,)``, of observations ``(B, *shape)``."""
        features = torch.tanh(self.encoder(obs))
        logits = self.actor(features)
        if self.discrete:
            policy: Distribution = Categorical(logits=logits)
        else:
            policy = Independent(Normal(logits, self.log_std.exp()), 1)
        return policy, self.extrinsic(features)[:, 0], self.intrinsic(features)[:, 0]

    def action(self, drawn: Tensor) -> np.ndarray:
        """A draw of the policy as the environments take it."""
        space, rows = self.action_space, drawn.cpu().numpy()
        if isinstance(space, spaces.Discrete):
            return rows + space.start
        return np.clip(rows.reshape(-1, *space.shape), space.low, space.high)


def extrinsic_advantages(
    rollout: Transition, rewards: Tensor, values: Tensor, following: Tensor, *, gamma: float, lam: float
) -> Tensor:
    """Advantages ``(T, N)``; ``following`` are the values of what each action led to."""
    deltas = rewards + gamma * torch.where(rollout.terminated, 0, following) - values
    advantages, last = torch.zeros_like(deltas), torch.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        advantages[t] = last = deltas[t] + gamma * lam * torch.where(rollout.done[t], 0, last)
    return advantages


def intrinsic_advantages(
    valid: Tensor, rewards: Tensor, values: Tensor, last_value: Tensor, *, gamma: float, lam: float
) -> Tensor:
    """Advantages ``(T, N)`` of a stream that never ends, past rows that only reset."""
    advantages, later = torch.zeros_like(rewards), torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        found = rewards[t] + gamma * last_value - values[t] + gamma * lam * later
        advantages[t] = later = torch.where(valid[t], found, later)
        last_value = torch.where(valid[t], values[t], last_value)
    return advantages


def learn(
    args: argparse.Namespace, agent: Agent, optimizer: torch.optim.Optimizer, samples: tuple[Any, ...]
) -> dict[str, float]:
    """Some epochs of clipped steps on samples ``(B, ...)``."""
    seen, drawn, old_log_prob, advantages, targets, intrinsic_targets = samples
    told: dict[str, float] = {}
    for _ in range(args.epochs):
        for rows in torch.randperm(len(advantages), device=advantages.device).chunk(args.minibatches):
            policy, value, intrinsic_value = agent(tree_map(lambda part: part[rows], seen))  # noqa: B023
            advantage = advantages[rows]
            advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
            ratio = (policy.log_prob(drawn[rows]) - old_log_prob[rows]).exp()
            clipped = ratio.clamp(1 - args.clip, 1 + args.clip)
            policy_loss = -torch.minimum(advantage * ratio, advantage * clipped).mean()
            value_loss = (value - targets[rows]).square().mean()
            intrinsic_loss = (intrinsic_value - intrinsic_targets[rows]).square().mean()
            entropy = policy.entropy().mean()
            loss = policy_loss + 0.5 * (value_loss + intrinsic_loss) - args.entropy_coefficient * entropy
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
            told = {"value_loss": value_loss.item(), "entropy": entropy.item()}
    return told


def samples_of(
    args: argparse.Namespace,
    agent: Agent,
    rollout: Transition,
    rewards: Tensor,
    bonuses: Tensor,
    acted: list[tuple[Tensor, ...]],
    obs: Any,
) -> tuple[Any, ...]:
    """What `learn` takes, of the rows that are valid; ``obs`` are the observations after the last step."""
    drawn, log_prob, values, intrinsic_values = map(torch.stack, zip(*acted, strict=True))
    with torch.no_grad():
        following = agent(tree_map(lambda part: part.flatten(0, 1), rollout.next_obs))[1].view_as(values)
        last_value = agent(obs)[2]
    extrinsic = extrinsic_advantages(
        rollout, rewards, values, following, gamma=args.gamma, lam=args.gae_lambda
    )
    intrinsic = intrinsic_advantages(
        rollout.valid, bonuses, intrinsic_values, last_value, gamma=args.intrinsic_gamma, lam=args.gae_lambda
    )
    advantages = args.extrinsic_coefficient * extrinsic + args.coefficient * intrinsic
    columns = (rollout.obs, drawn, log_prob, advantages, extrinsic + values, intrinsic + intrinsic_values)
    return tree_map(lambda part: part[rollout.valid], columns)


def make_envs(args: argparse.Namespace) -> VectorEnv:
    register_environments()
    envs = gym.make_vec(
        args.env_id,
        args.num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": args.autoreset},
    )
    return RecordEpisodeStatistics(envs)


def train(args: argparse.Namespace) -> dict[str, float]:
    """Train, print, and return what was last printed."""
    torch.manual_seed(args.seed)
    device, envs = torch.device(args.device), make_envs(args)
    observation_space, action_space = envs.single_observation_space, envs.single_action_space
    agent = Agent(observation_space, action_space).to(device)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.lr, eps=1e-5)
    bonus = create("bonus", args.bonus, observation_space, action_space, seed=args.seed).to(device)

    def tensors(observations: Any) -> Any:
        return tree_map(lambda part: torch.as_tensor(part, device=device), observations)

    obs, _ = envs.reset(seed=args.seed)
    reader = StepReader(envs)
    reader.reset(obs)
    returns, start, told = [], time.perf_counter(), {}
    for update in range(1, args.total_steps // (args.num_envs * args.num_steps) + 1):
        steps, rewards, acted = [], [], []
        for _ in range(args.num_steps):
            with torch.no_grad():
                policy, value, intrinsic_value = agent(tensors(obs))
                drawn = policy.sample()
            acted.append((drawn, policy.log_prob(drawn), value, intrinsic_value))
            action = agent.action(drawn)
            step = obs, reward, _, _, info = envs.step(action)
            steps.append(reader.read(action, step))
            rewards.append(torch.as_tensor(reward, dtype=torch.float32))
            if "episode" in info:
                returns += info["episode"]["r"][info["_episode"]].tolist()

        rollout = stack_transitions(steps).to(device)
        bonuses = bonus.score(rollout)
        metrics = bonus.update(rollout)
        gained = torch.stack(rewards).to(device)
        samples = samples_of(args, agent, rollout, gained, bonuses, acted, tensors(obs))
        losses = learn(args, agent, optimizer, samples)
        told = {
            "steps": update * args.num_envs * args.num_steps,
            "return": float(np.mean(returns[-100:])) if returns else float("nan"),
            "best_return": max(returns, default=float("nan")),
            "bonus": float(bonuses[rollout.valid].mean()),
            **losses,
            **metrics,
        }
        if update % 10 == 0:
            rate = told["steps"] / (time.perf_counter() - start)
            print("  ".join(f"{name} {value:.4g}" for name, value in told.items()), f" {rate:.0f} steps/s")
    envs.close()
    return told


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small, a second thread costs more than it gives
    train(arguments())

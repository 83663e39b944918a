"""Stable-Baselines3's PPO with a bonus, beside PPO alone: wall time of the same number of steps.

Eight CartPole environments, cheap enough that nothing hides the bonus. The bar of RND of 2 x 64, with one
epoch of 4 minibatches, is 85 % of PPO's speed. RND of 2 x 256 has PPO's own epochs and minibatches; its bar
is 1.1 times what PPO and the bare steps of its networks take. These are timed by themselves: the same
perceptrons, batches and Adam in a plain loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_explore.sb3 import IntrinsicPPO

STEPS, ENVIRONMENTS, FEATURES = 256, 8, 4
PER_ROLLOUT = STEPS * ENVIRONMENTS
BATCH, EPOCHS = 64, 10  # PPO's own
SMALL: dict[str, Any] = {"hidden": (64, 64), "epochs": 1, "minibatches": 4}
LARGE: dict[str, Any] = {"hidden": (256, 256), "epochs": EPOCHS, "minibatches": PER_ROLLOUT // BATCH}


def learning(kind: Callable[..., Any], rollouts: int, **options: Any) -> Callable[[], float]:
    """The wall time of so many more rollouts and updates of a model, which has learned from two before."""
    env = make_vec_env("CartPole-v1", ENVIRONMENTS, seed=0)
    model = kind(
        "MlpPolicy",
        env,
        n_steps=STEPS,
        batch_size=BATCH,
        n_epochs=EPOCHS,
        seed=0,
        device="cpu",
        verbose=0,
        **options,
    )
    model.learn(2 * PER_ROLLOUT)
    return lambda: seconds(lambda: model.learn(rollouts * PER_ROLLOUT, reset_num_timesteps=False))


def bare(rollouts: int, *, hidden: tuple[int, ...], epochs: int, minibatches: int) -> Callable[[], float]:
    """The wall time of what the networks of RND must do at least: score each rollout, and learn it."""
    target, predictor = perceptron(hidden), perceptron(hidden)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=1e-3)
    obs = torch.randn(PER_ROLLOUT, FEATURES)

    def once() -> None:
        for _ in range(rollouts):
            with torch.no_grad():
                (predictor(obs) - target(obs)).square().mean(1)
            for _ in range(epochs):
                for rows in torch.randperm(PER_ROLLOUT).chunk(minibatches):
                    with torch.no_grad():
                        wanted = target(obs[rows])
                    loss = (predictor(obs[rows]) - wanted).square().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()

    once()
    return lambda: seconds(once)


def perceptron(hidden: tuple[int, ...]) -> nn.Sequential:
    """Layers of these widths, to 64 features."""
    pairs = itertools.pairwise([FEATURES, *hidden, 64])
    layers = [part for inside, outside in pairs for part in (nn.Linear(inside, outside), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def rows(*, repeats: int, rollouts: int) -> Iterator[dict[str, Any]]:
    """Milliseconds a rollout, with PPO's update: the bar beside ours, and the parts it is made of."""
    measures = [
        learning(PPO, rollouts),
        learning(IntrinsicPPO, rollouts, bonus="rnd", bonus_coefficient=0.0, bonus_options=SMALL),
        learning(IntrinsicPPO, rollouts, bonus="rnd", bonus_options=SMALL),
        learning(IntrinsicPPO, rollouts, bonus="rnd", bonus_options=LARGE),
        bare(rollouts, **LARGE),
    ]
    alone, off, small, large, networks = (1e3 * one / rollouts for one in medians(repeats, *measures))
    each = {"unit": "ms", "PPO": alone}
    yield row("coefficient 0", ours=off, peers={"bar": alone / 0.85}, speed=alone / off, **each)
    yield row("RND 2 x 64", ours=small, peers={"bar": alone / 0.85}, speed=alone / small, **each)
    bar = 1.1 * (alone + networks)
    yield row("RND 2 x 256", ours=large, peers={"bar": bar}, speed=alone / large, networks=networks, **each)


if __name__ == "__main__":
    options = parser(__doc__, repeats=5)
    options.add_argument("--rollouts", type=int, default=2, metavar="N")
    run(options, rows)

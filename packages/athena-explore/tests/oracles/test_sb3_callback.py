"""The callback of replay buffers: what it logs, and a coefficient that follows training."""

from __future__ import annotations

from typing import Any

import pytest
from sb3_environments import Constant, Kept, corridors
from stable_baselines3 import DQN
from stable_baselines3.common.logger import Logger

from athena_explore.sb3 import IntrinsicPPO, IntrinsicReplayBuffer, IntrinsicRewardCallback


def made(**options: Any) -> DQN:
    given = {"bonus": Constant, "coefficient": 0.5, "learn_every": 16}
    return DQN(
        "MlpPolicy",
        corridors(),
        learning_starts=20,
        buffer_size=200,
        replay_buffer_class=IntrinsicReplayBuffer,
        replay_buffer_kwargs=given,
        seed=0,
        device="cpu",
        **options,
    )


def test_it_logs_what_the_bonus_does() -> None:
    kept, model = Kept(), made()
    model.set_logger(Logger(None, [kept]))
    model.learn(160, callback=IntrinsicRewardCallback())
    last = kept.rows[-1]
    assert (last["intrinsic/reward_mean"], last["intrinsic/reward_std"]) == (1, 0)
    assert last["intrinsic/coefficient"] == 0.5  # the buffer's own
    assert last["intrinsic/samples"] >= 32


def test_the_coefficient_follows_training() -> None:
    model = made()
    seen: list[float] = []

    def coefficient(remaining: float) -> float:
        seen.append(remaining)
        return remaining**2

    model.learn(160, callback=IntrinsicRewardCallback(coefficient))
    assert seen[0] == 1
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.2
    assert model.replay_buffer.coefficient == seen[-1] ** 2


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"-1"):
        IntrinsicRewardCallback(-1.0)
    for model, got in (
        (DQN("MlpPolicy", corridors(), buffer_size=100), "ReplayBuffer"),
        (IntrinsicPPO("MlpPolicy", corridors(), n_steps=16, batch_size=16, device="cpu"), "NoneType"),
    ):
        with pytest.raises(TypeError, match=f"`replay_buffer_class`.*got {got}"):
            model.learn(32, callback=IntrinsicRewardCallback())

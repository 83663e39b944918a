"""The one-file PPO with an intrinsic reward runs, in both autoreset modes, on spaces of several kinds."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from athena_explore._bonus_laws import walk, with_reset_rows

SMALL = ("--num_envs", "3", "--num_steps", "40", "--total_steps", "240", "--epochs", "1")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[1] / "examples" / "intrinsic_reward_ppo.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize(
    ("env_id", "bonus"),
    [
        ("CartPole-v1", "rnd"),
        ("Pendulum-v1", "icm"),
        ("CliffWalking-v1", "e3b"),
        ("athena/DeepSea-v0", "counts"),
    ],
)
def test_it_trains(script: ModuleType, env_id: str, bonus: str, mode: str) -> None:
    chosen = ["--env_id", env_id, "--bonus", bonus, "--autoreset", mode]
    told = script.train(script.arguments([*chosen, *SMALL]))
    assert told["steps"] == 240
    assert told["bonus"] > 0
    assert all(math.isfinite(value) for name, value in told.items() if "return" not in name)
    if env_id == "CartPole-v1":
        assert 8 < told["return"] < 100


DECAYS = {"gamma": 0.9, "lam": 0.8}


def test_advantages_do_not_depend_on_the_autoreset_mode(script: ModuleType) -> None:
    plain = walk(30, 2, seed=1)
    padded = with_reset_rows(plain)

    def spread(values: torch.Tensor) -> torch.Tensor:
        found = torch.full(padded.shape, 100.0)
        found[padded.valid] = values.flatten()
        return found

    rewards, values, following = torch.randn(3, 30, 2)
    last = torch.randn(2)
    one = script.extrinsic_advantages(plain, rewards, values, following, **DECAYS)
    other = script.extrinsic_advantages(padded, *map(spread, (rewards, values, following)), **DECAYS)
    torch.testing.assert_close(other[padded.valid].view(30, 2), one)
    one = script.intrinsic_advantages(plain.valid, rewards, values, last, **DECAYS)
    other = script.intrinsic_advantages(padded.valid, spread(rewards), spread(values), last, **DECAYS)
    torch.testing.assert_close(other[padded.valid].view(30, 2), one)


def test_extrinsic_returns_end_and_intrinsic_ones_do_not(script: ModuleType) -> None:
    rollout = walk(30, 2, seed=1)
    rewards, values, following = torch.randn(3, 30, 2)
    found = script.extrinsic_advantages(rollout, rewards, values, following, **DECAYS)
    for ends, discount in ((rollout.terminated, 0.0), (rollout.truncated & ~rollout.terminated, 0.9)):
        assert ends.any()
        torch.testing.assert_close(found[ends], (rewards - values + discount * following)[ends])
    later = rewards.clone()
    later[-1] += 1
    one, other = (
        script.intrinsic_advantages(rollout.valid, bonus, values, values[0], **DECAYS)
        for bonus in (rewards, later)
    )
    torch.testing.assert_close((other - one)[:, 0], 0.72 ** torch.arange(29.0, -1, -1))

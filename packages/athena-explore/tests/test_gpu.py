"""Every bonus on CUDA does what it does on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

import athena_core
from athena_explore import Transition
from athena_explore._bonus_laws import ACTIONS, VECTOR, sampled, walk

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
IMAGES = spaces.Box(0, 255, (40, 40, 3), np.uint8)
NAMES = [component.name for component in athena_core.components("bonus")]


@pytest.fixture(autouse=True)
def _whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions on CUDA use ten bits of the mantissa by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def _same_rewards(name: str, space: spaces.Space, first: Transition, rollouts: list[Transition]) -> None:
    """What was learned on the CPU scores alike on both: training itself magnifies the last bits."""
    here, there = (athena_core.create("bonus", name, space, ACTIONS) for _ in range(2))
    here.update(first)
    there.load_state_dict(here.state_dict())
    there.to("cuda")
    for rollout in rollouts:
        rewards = there.score(rollout.to("cuda"))
        assert rewards.device.type == "cuda"
        torch.testing.assert_close(rewards.cpu(), here.score(rollout), rtol=1e-3, atol=1e-3)
        here.advance(rollout)
        there.advance(rollout.to("cuda"))


@pytest.mark.parametrize("name", NAMES)
def test_vectors(name: str) -> None:
    _same_rewards(name, VECTOR, walk(20, 3), [walk(20, 3, seed=seed) for seed in (1, 2)])


@pytest.mark.parametrize("name", NAMES)
def test_images(name: str) -> None:
    first, *others = (sampled(IMAGES, ACTIONS, 8, 2) for _ in range(3))
    _same_rewards(name, IMAGES, first, others)


@pytest.mark.parametrize("name", NAMES)
def test_learning(name: str) -> None:
    """One rollout is learned alike: losses before any step agree, and what comes after is finite."""
    here, there = (athena_core.create("bonus", name, VECTOR, ACTIONS) for _ in range(2))
    metrics = there.to("cuda").update(walk(20, 3).to("cuda"))
    for key, value in here.update(walk(20, 3)).items():
        assert metrics[key] == pytest.approx(value, rel=0.05), key
    assert bool(there.score(walk(20, 3, seed=1).to("cuda")).isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_goes_from_one_device_to_the_other(name: str) -> None:
    here, there = (athena_core.create("bonus", name, VECTOR, ACTIONS) for _ in range(2))
    here.update(walk(20, 3))
    there.to("cuda").load_state_dict(here.state_dict())
    rollout = walk(20, 3, seed=1)
    torch.testing.assert_close(there.score(rollout), here.score(rollout), rtol=1e-3, atol=1e-4)
    there.update(rollout)
    assert there.device.type == "cuda"


@pytest.mark.parametrize("name", NAMES)
def test_the_gpu_s_global_generator_is_left_alone(name: str) -> None:
    before = torch.cuda.get_rng_state()
    bonus = athena_core.create("bonus", name, VECTOR, ACTIONS).to("cuda")
    for seed in range(2):
        bonus.update(walk(20, 3, seed=seed))
    assert torch.equal(torch.cuda.get_rng_state(), before)

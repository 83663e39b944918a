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


def _same(name: str, space: spaces.Space, rollouts: list[Transition]) -> None:
    here = athena_core.create("bonus", name, space, ACTIONS)
    there = athena_core.create("bonus", name, space, ACTIONS).to("cuda")
    for rollout in rollouts:
        rewards = there.score(rollout.to("cuda"))
        assert rewards.device.type == "cuda"
        # float32 networks are trained on both: rounding differs, and grows with each step of training
        torch.testing.assert_close(rewards.cpu(), here.score(rollout), rtol=2e-2, atol=1e-3)
        here.update(rollout)
        there.update(rollout.to("cuda"))


@pytest.mark.parametrize("name", NAMES)
def test_vectors(name: str) -> None:
    _same(name, VECTOR, [walk(20, 3, seed=seed) for seed in range(3)])


@pytest.mark.parametrize("name", NAMES)
def test_images(name: str) -> None:
    _same(name, IMAGES, [sampled(IMAGES, ACTIONS, 8, 2) for _ in range(2)])


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

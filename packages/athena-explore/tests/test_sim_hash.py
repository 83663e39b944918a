"""SimHash: keys beside a slow reference, their meaning, and that they stay the same."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces

from athena_explore import GaussianSigns, SimHash, Transition
from athena_explore._bonus_laws import walk

ACTIONS = spaces.Discrete(3)
LATTICE = spaces.Box(-4, 4, (3,), np.float32)
IN_ANOTHER_PROCESS = """
import torch
from gymnasium import spaces
from athena_explore import SimHash
bonus = SimHash(spaces.Box(-4, 4, (3,)), spaces.Discrete(3), seed=3)
print(*bonus._state_keys(torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.25, -4.0]])).tolist())
"""


def arriving(states: torch.Tensor) -> Transition:
    ends = torch.zeros(len(states), 1, dtype=torch.bool)
    return Transition(states[:, None], torch.zeros(len(states), 1), states[:, None], ends, ends)


@pytest.mark.parametrize("bits", [1, 7, 63, 64])
def test_bits_are_signs_of_the_projection(bits: int):
    signs, features = GaussianSigns(5, bits), torch.randn(40, 5)
    projection = signs.projection.double().numpy()
    for row, key in zip(features.double().numpy(), signs(features).tolist(), strict=True):
        expected = sum(1 << j for j in range(bits) if row @ projection[:, j] >= 0)
        assert key % 2**64 == expected


def test_the_sign_of_zero_is_defined():
    signs = GaussianSigns(4, 64)
    zeros = torch.zeros(2, 4)
    zeros[1] = -0.0
    assert signs(zeros).tolist() == [-1, -1]  # all 64 bits


def test_signs_differ_by_a_chance_of_the_angle():
    signs = GaussianSigns(2, 64)
    signs.projection = torch.randn(2, 64 * 500)
    signs.values = torch.ones(64 * 500, dtype=torch.int64)  # how many bits are 1
    angles = torch.tensor([0.0, 0.5, 2.0, torch.pi])
    states = torch.stack([angles.cos(), angles.sin()], 1)
    bits = states @ signs.projection >= 0
    share = (bits != bits[0]).float().mean(1)
    torch.testing.assert_close(share, angles / torch.pi, rtol=0, atol=0.01)  # 4 deviations of 32,000 draws
    assert torch.equal(signs(states), bits.sum(1))


def test_keys_are_the_same_in_another_process_and_after_a_checkpoint():
    bonus = SimHash(LATTICE, ACTIONS, seed=3)
    states = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.25, -4.0]])
    keys = bonus._state_keys(states)
    ran = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS], capture_output=True, text=True, check=True
    )
    assert [int(key) for key in ran.stdout.split()] == keys.tolist()
    file = io.BytesIO()
    torch.save(bonus.state_dict(), file)
    file.seek(0)
    other = SimHash(LATTICE, ACTIONS, seed=8)
    assert not torch.equal(other._state_keys(states), keys)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other._state_keys(states), keys)


def test_learning_leaves_the_projection_alone():
    bonus = SimHash(LATTICE, ACTIONS)
    before = bonus.signs.projection.clone()
    bonus.update(walk(50, 2))
    assert torch.equal(bonus.signs.projection, before)
    assert not list(bonus.parameters())


def test_few_bits_take_more_states_for_one():
    rollout = arriving(torch.randn(300, 3).clamp(-4, 4))
    n_states = [SimHash(LATTICE, ACTIONS, bits=bits).update(rollout)["states"] for bits in (1, 4, 32)]
    assert n_states[0] == 2
    assert n_states[0] < n_states[1] <= 16 < n_states[2]


def test_numbers_with_bounds_are_scaled_and_others_left():
    space = spaces.Dict(
        {
            "scaled": spaces.Box(np.float32([0, 5]), np.float32([255, 7])),
            "left": spaces.Box(-np.inf, np.inf, (1,)),
            "kind": spaces.Discrete(2, start=3),
        }
    )
    bonus = SimHash(space, ACTIONS, bits=64)
    obs = {
        "scaled": torch.tensor([[255.0, 5.5]]),
        "left": torch.tensor([[40.0]]),
        "kind": torch.tensor([4]),
    }
    names = list(space.spaces)
    rows = {"scaled": [1.0, -0.5], "left": [40.0], "kind": [0.0, 1.0]}
    expected = torch.tensor([[number for name in names for number in rows[name]]])
    assert torch.equal(bonus._state_keys(obs), bonus.signs(expected))


def test_a_number_of_one_value_and_images_have_keys():
    constant = SimHash(spaces.Box(1, 1, (2,)), ACTIONS)
    assert len(constant._state_keys(torch.ones(3, 2)).unique()) == 1
    images = torch.randint(0, 256, (20, 7, 7, 3), dtype=torch.uint8)
    assert len(SimHash(spaces.Box(0, 255, (7, 7, 3), "uint8"), ACTIONS)._state_keys(images).unique()) == 20


def test_pairs_of_states_and_actions():
    bonus = SimHash(LATTICE, ACTIONS, of="state-action")
    state = torch.ones(3, 1, 3)
    ends = torch.zeros(3, 1, dtype=torch.bool)
    rewards = bonus.score(Transition(state, torch.tensor([[0], [1], [0]]), -state, ends, ends))
    assert rewards.flatten().tolist() == pytest.approx([1, 1, 2**-0.5])


@pytest.mark.parametrize("bits", [0, 65])
def test_refuses_bits_that_make_no_key(bits: int):
    with pytest.raises(ValueError, match=rf"`bits` must lie in \[1, 64\]; got {bits}"):
        SimHash(LATTICE, ACTIONS, bits=bits)

"""Keys of states: equal for equal values, the same in every process, and different else."""

from __future__ import annotations

import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given

from athena_explore._state_keys import StateKeys, mix

IMAGES = spaces.Box(0, 255, (5, 5, 3), "uint8")
FLOATS = spaces.Box(-1, 1, (3,))
PINNED = """
import torch
from gymnasium import spaces
from athena_explore._state_keys import StateKeys
print(int(StateKeys(spaces.Box(-1, 1, (3,)))(torch.tensor([0.25, -0.5, 1.0]))))
"""
PINNED_KEY = 5284337180604815503  # of version 0.1: a checkpoint of counts is worthless once it changes


def test_a_key_is_the_same_in_another_process():
    key = int(StateKeys(FLOATS)(torch.tensor([0.25, -0.5, 1.0])))
    ran = subprocess.run([sys.executable, "-c", PINNED], capture_output=True, text=True, check=True)
    assert int(ran.stdout) == key == PINNED_KEY


def plain_key(words: list[int]) -> int:
    """The formula in Python's integers, which do not wrap around."""
    modulus = 2**64

    def bijection(x: int, multiplier: int) -> int:
        product = x * multiplier % modulus
        return product ^ (product >> 32)

    total = 0
    for i, word in enumerate(words):
        state = (i + 1) * 0x9E3779B97F4A7C15 % modulus
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % modulus
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % modulus
        total += bijection(word, 0x9E3779B97F4A7C15) * ((state ^ (state >> 31)) | 1)
    key = bijection(total, 0xBF58476D1CE4E5B9)
    return key - modulus if key >= 2**63 else key


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=9))
def test_keys_follow_the_formula(words: list[int]):
    space = spaces.Box(-(2**31), 2**31 - 1, (len(words),), "int64")
    halves = [half for word in words for half in (word & 0xFFFFFFFF, word >> 32)]
    signed = [half - 2**32 if half >= 2**31 else half for half in halves]
    assert int(StateKeys(space)(torch.tensor(words))) == plain_key(signed)


@pytest.mark.parametrize(
    ("space", "draw"),
    [
        (FLOATS, lambda: torch.randint(-3, 4, (400, 3)) / 4),
        (spaces.Box(-1, 1, (3,), "float64"), lambda: torch.randint(-3, 4, (400, 3)).double() / 4),
        (
            IMAGES,
            lambda: (
                torch.randint(0, 2, (400, 5, 5, 3), dtype=torch.uint8) * (torch.rand(400, 5, 5, 3) < 0.02)
            ),
        ),
        (spaces.Discrete(9, start=-4), lambda: torch.randint(-4, 5, (400,))),
        (spaces.MultiDiscrete([3, 4]), lambda: torch.randint(0, 3, (400, 2))),
        (spaces.MultiBinary(6), lambda: torch.randint(0, 2, (400, 6), dtype=torch.int8)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_keys_are_equal_exactly_where_the_bytes_are(space, draw):
    states = draw()
    keys = StateKeys(space)(states)
    of_bytes: dict[bytes, int] = {}
    for state, key in zip((states + 0).numpy(), keys.tolist(), strict=True):
        assert of_bytes.setdefault((state + 0 * state).tobytes(), key) == key
    assert len(set(of_bytes.values())) == len(of_bytes)


def test_parts_of_a_dictionary_and_of_a_tuple_count_in_their_places():
    box = spaces.Box(-1, 1, (2,))
    keys = StateKeys(spaces.Tuple((spaces.Dict({"a": box, "b": box}), spaces.Discrete(3))))
    one, other, action = torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, 0.5]]), torch.tensor([1])
    values = [
        ({"a": one, "b": other}, action),
        ({"a": other, "b": one}, action),
        ({"a": one, "b": other}, action + 1),
    ]
    assert len({int(keys(value)) for value in values}) == 3


def test_minus_zero_is_zero():
    keys = StateKeys(FLOATS)(torch.tensor([[0.0, 0.0, 1.0], [-0.0, 0.0, 1.0]]))
    assert keys[0] == keys[1]


def test_doubles_and_floats_of_one_value_have_one_key():
    state = torch.rand(10, 3)
    keys = StateKeys(spaces.Box(-1, 1, (3,), "float64"))
    assert torch.equal(keys(state), keys(state.double()))


def test_leading_axes_strides_and_chunks_change_nothing():
    keys = StateKeys(IMAGES)
    states = torch.randint(0, 255, (4, 6, 5, 5, 3), dtype=torch.uint8)
    expected = torch.stack([torch.stack([keys(state) for state in row]) for row in states])
    assert torch.equal(keys(states), expected)
    assert torch.equal(keys(states.transpose(0, 1)), expected.T)
    wide = StateKeys(spaces.Box(0, 255, (2**17,), "uint8"))
    rows = torch.randint(0, 255, (20, 2**17), dtype=torch.uint8)
    assert torch.equal(wide(rows)[17:], wide(rows[17:]))


def test_a_single_number_may_have_any_stride():
    keys = StateKeys(spaces.Discrete(9))
    one = torch.from_numpy(np.array(5)[None, None])
    assert one.stride() == (0, 0)
    assert keys(one).item() == keys(torch.tensor(5)).item()


@pytest.mark.parametrize("lead", [(0,), (0, 3), (3, 0)])
def test_no_states_have_no_keys(lead):
    assert StateKeys(IMAGES)(torch.zeros(*lead, 5, 5, 3, dtype=torch.uint8)).shape == lead


def test_a_space_of_no_numbers_has_one_state():
    assert len(set(StateKeys(spaces.Box(0, 1, (0,)))(torch.zeros(4, 0)).tolist())) == 1


def test_bins_cut_the_range_into_equal_parts():
    keys = StateKeys(spaces.Box(-1, 1, (1,)), bins=4)
    values = torch.tensor([[-7.0], [-1.0], [-0.51], [-0.5], [0.0], [0.49], [0.5], [1.0], [7.0]])
    expected = [0, 0, 0, 1, 2, 2, 3, 3, 3]
    seen: dict[int, int] = {}
    for bin_, key in zip(expected, keys(values).tolist(), strict=True):
        assert seen.setdefault(bin_, key) == key
    assert len(set(seen.values())) == 4


def test_a_number_without_bounds_is_squashed_before_it_is_binned():
    keys = StateKeys(spaces.Box(-float("inf"), float("inf"), (1,)), bins=4)
    one, same, other, last = keys(torch.tensor([[0.1], [0.9], [1.1], [-3e38]])).tolist()
    assert one == same
    assert len({one, other, last}) == 3


def test_bins_leave_integers_alone():
    assert (
        len(set(StateKeys(IMAGES, bins=2)(torch.randint(0, 2, (50, 5, 5, 3), dtype=torch.uint8)).tolist()))
        == 50
    )


def test_a_bijection_of_integers():
    integers = torch.arange(-5000, 5000)
    assert len(mix(integers, 0x9E3779B97F4A7C15 - 2**64).unique()) == 10_000


def test_refuses_bad_options():
    with pytest.raises(ValueError, match="`bins` must be at least 2; got 1"):
        StateKeys(FLOATS, bins=1)
    with pytest.raises(ValueError, match="must be of Box"):
        StateKeys(spaces.Text(3))

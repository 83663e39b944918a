"""Every bonus in spaces that few environments have."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from gymnasium import spaces
from torch import nn

from athena_explore import RND, Bonus
from athena_explore._bonus_laws import ACTIONS, sampled
from athena_explore._plugin import TABLES

BONUSES = {row[0]: row[1] for row in TABLES["bonus"]}
NUMBER = spaces.Box(-1, 1, (), np.float32)
ODD = {
    "a number without axes": (NUMBER, NUMBER),
    "truth values": (spaces.Box(0, 1, (2,), np.bool_), ACTIONS),
    "one state, one action": (spaces.Discrete(1), spaces.Discrete(1)),
    "starts below 0": (spaces.Discrete(4, start=-3), spaces.Discrete(3, start=-1)),
    "two axes": (spaces.MultiDiscrete([[2, 3], [4, 5]]), spaces.MultiDiscrete([[2, 3], [4, 5]])),
    "two axes of bits": (spaces.MultiBinary([2, 3]), spaces.MultiBinary([2, 3])),
    "no bounds": (spaces.Box(-np.inf, np.inf, (3,), np.float64), spaces.Box(-np.inf, np.inf, (2,))),
    "bounds of float32": (spaces.Box(-3e38, 3e38, (3,), np.float32), spaces.Box(-1, 1, (1,))),
    "bounds that are equal": (spaces.Box(1, 1, (2,)), ACTIONS),
    "images of floats": (spaces.Box(0, 1, (3, 12, 12)), ACTIONS),
    "an image of one pixel": (spaces.Box(0, 255, (1, 1, 1), np.uint8), ACTIONS),
    "64-bit integers": (spaces.Box(0, 2**64 - 1, (2,), np.uint64), ACTIONS),
    "parts of parts": (
        spaces.Dict({"a": spaces.Tuple([NUMBER, spaces.Dict({"x": spaces.Discrete(3)})])}),
        spaces.Dict({"m": spaces.Discrete(3), "c": NUMBER}),
    ),
}
# Their features are as large as what they are given, and errors are squared.
TOO_LARGE = ("bounds of float32", "64-bit integers")


@pytest.fixture(params=BONUSES)
def kind(request: pytest.FixtureRequest) -> type[Bonus]:
    module, _, name = BONUSES[request.param].partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", [name for name in ODD if name not in TOO_LARGE])
def test_odd_spaces(kind: type[Bonus], name: str) -> None:
    bonus = kind(*ODD[name])
    for steps, environments in ((5, 2), (1, 1), (7, 3)):
        bonus.clear_episodes()
        rollout = sampled(*ODD[name], steps, environments)
        rewards = bonus.score(rollout)
        bonus.update(rollout)
        assert rewards.shape == (steps, environments)
        assert rewards.isfinite().all()
        if not bonus.episodic:
            assert bonus.score_samples(rollout.flat()).isfinite().all()


@pytest.mark.parametrize("name", TOO_LARGE)
def test_numbers_of_any_size_are_counted_and_normalised(name: str) -> None:
    for kind in ("Counts", "SimHash", "LearnedHash", "PseudoCounts", "RND", "NovelD", "NGU"):
        bonus = getattr(importlib.import_module("athena_explore"), kind)(*ODD[name])
        for _ in range(3):
            rollout = sampled(*ODD[name], 6, 2)
            assert bonus.score(rollout).isfinite().all(), kind
            bonus.update(rollout)


def test_a_space_without_parts_is_refused(kind: type[Bonus]) -> None:
    with pytest.raises(ValueError, match=r"`observation_space` must have parts; got Dict\(\)"):
        kind(spaces.Dict({}), ACTIONS)
    with pytest.raises(ValueError, match=r"`action_space\['a'\]` must have parts; got Tuple\(\)"):
        kind(NUMBER, spaces.Dict({"a": spaces.Tuple([])}))


@pytest.mark.parametrize("name", ["LearnedHash", "NovelD", "RE3", "RND"])
def test_an_encoder_that_is_made_already_is_refused(name: str) -> None:
    kind = getattr(importlib.import_module("athena_explore"), name)
    with pytest.raises(TypeError, match=r"`encoder` must be a function.*got the module Linear"):
        kind(NUMBER, ACTIONS, encoder=nn.Linear(3, 64))


@pytest.mark.parametrize("options", [{"width": 0}, {"hidden": (8, 0)}, {"width": -3}])
def test_layers_without_outputs_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="`width` and `hidden` must be at least 1; got"):
        RND(NUMBER, ACTIONS, **options)


def test_images_in_double_precision(kind: type[Bonus]) -> None:
    images = spaces.Dict({"view": spaces.Box(0, 255, (12, 12, 3), np.uint8), "key": spaces.Discrete(2)})
    bonus = kind(images, ACTIONS).double()
    rollout = sampled(images, ACTIONS, 5, 2)
    for _ in range(2):
        assert bonus.score(rollout).isfinite().all()
        bonus.update(rollout)

"""What surrounds a call (modes, precision, defaults) does not reach a bonus, and bonuses can be copied."""

from __future__ import annotations

import copy
import importlib
import pickle
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from athena_explore import RND, Bonus, Transition
from athena_explore._bonus_laws import ACTIONS, VECTOR, walk
from athena_explore._plugin import TABLES

BONUSES = {row[0]: row[1] for row in TABLES["bonus"]}
SURROUNDINGS = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default device": lambda: torch.device("meta"),  # holds no values: each would be missed
}


@pytest.fixture(params=BONUSES)
def kind(request: pytest.FixtureRequest) -> type[Bonus]:
    module, _, name = BONUSES[request.param].partition(":")
    return getattr(importlib.import_module(module), name)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def used(bonus: Bonus, around: AbstractContextManager[object]) -> list[object]:
    """Two rollouts around which something is, and one around which nothing is."""
    rollouts = [walk(12, 2, seed=seed) for seed in range(3)]
    found: list[object] = []
    with around:
        for rollout in rollouts[:2]:
            found += [bonus.score(rollout).tolist(), bonus.update(rollout)]
        if not bonus.episodic:
            found.append(bonus.score_samples(rollouts[2].flat()).tolist())
    return [*found, bonus.update(rollouts[2]), bonus.score(rollouts[0]).tolist()]


@pytest.mark.parametrize("around", SURROUNDINGS)
def test_modes_and_defaults_change_nothing(kind: type[Bonus], around: str) -> None:
    plain = used(kind(VECTOR, ACTIONS, normalize="return"), torch.enable_grad())
    assert used(kind(VECTOR, ACTIONS, normalize="return"), SURROUNDINGS[around]()) == plain


def test_a_default_of_float64_is_that_of_networks(kind: type[Bonus]) -> None:
    with default_dtype(torch.float64):
        used(kind(VECTOR, ACTIONS), torch.enable_grad())
    bonus = kind(VECTOR, ACTIONS)
    used(bonus, default_dtype(torch.float64))
    bonus.double()
    assert bonus.score(walk(12, 2)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype: torch.dtype) -> None:
    bonus = RND(VECTOR, ACTIONS)
    with pytest.raises(TypeError, match=rf"`dtype` of a bonus must be float32.*got {dtype}"):
        bonus.to(dtype)
    assert all(parameter.dtype is torch.float32 for parameter in bonus.parameters())


def test_copies_go_on_alike(kind: type[Bonus]) -> None:
    bonus = kind(VECTOR, ACTIONS)
    bonus.update(walk(12, 2))
    bonus.score(walk(12, 2, seed=1))  # whose work is kept for an update that does not come
    for other in (copy.deepcopy(bonus), pickle.loads(pickle.dumps(bonus))):
        mine = copy.deepcopy(bonus)
        assert used(other, torch.enable_grad()) == used(mine, torch.enable_grad())


def test_tensors_of_a_transition_stay_on_their_device() -> None:
    rollout = walk(3, 2)
    with torch.device("meta"):
        other = Transition(rollout.obs, rollout.action, rollout.next_obs, rollout.done, rollout.done)
    assert other.device.type == other.obs.device.type == other.valid.device.type == "cpu"


def test_a_bonus_that_took_over_a_state_shares_nothing_with_the_other(kind: type[Bonus]) -> None:
    first, other = kind(VECTOR, ACTIONS), kind(VECTOR, ACTIONS)
    first.update(walk(20, 2, seed=1))
    other.load_state_dict(first.state_dict())
    copied = copy.deepcopy(first)
    other.update(walk(20, 2, seed=2))
    for seed in (3, 4):
        rollout = walk(20, 2, seed=seed)
        assert torch.equal(first.score(rollout), copied.score(rollout))
        assert first.update(rollout) == copied.update(rollout)

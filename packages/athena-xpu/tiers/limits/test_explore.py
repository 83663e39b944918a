"""Every registered bonus scores and learns within the limits of the A series, from float64 too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from athena_core import components, create
from athena_explore import Transition
from athena_explore._bonus_laws import ACTIONS, OTHER_SPACES, VECTOR, sampled, walk
from athena_xpu import ArcLimits

BONUSES = [component.name for component in components("bonus")]
WIDE = spaces.Box(-4, 4, (3,), np.float64), spaces.Box(-1, 1, (2,), np.float64)


def alike(name: str, space: spaces.Space, actions: spaces.Space, rollouts: list[Transition]) -> ArcLimits:
    """What was learned on the host scores alike on the device."""
    here, there = (create("bonus", name, space, actions) for _ in range(2))
    first, *others = rollouts
    here.update(first)
    there.load_state_dict(here.state_dict())
    with ArcLimits() as limits:
        there.to(limits.device)
        for rollout in others:
            rewards = there.score(rollout.to(limits.device))
            assert rewards.device == limits.device
            torch.testing.assert_close(rewards.cpu(), here.score(rollout), rtol=1e-3, atol=1e-3)
            here.advance(rollout)
            there.advance(rollout)  # it moves what lies on the host
        there.learn(others[0])
        assert bool(there.score(others[0]).isfinite().all())
    return limits


@pytest.mark.parametrize("name", BONUSES)
def test_vectors(name: str) -> None:
    alike(name, VECTOR, ACTIONS, [walk(12, 2, seed=seed) for seed in range(2)])


@pytest.mark.parametrize("name", BONUSES)
def test_float64_observations_and_actions_are_cast_on_the_host(name: str) -> None:
    """Pitfall 12: NumPy's float64 never crosses over."""
    alike(name, *WIDE, [sampled(*WIDE, 8, 2) for _ in range(2)])


@pytest.mark.parametrize("kind", OTHER_SPACES)
def test_other_spaces(kind: str) -> None:
    space, actions = OTHER_SPACES[kind]
    alike("rnd", space, actions, [sampled(space, actions, 8, 2) for _ in range(2)])


def test_rnd_waits_seldom() -> None:
    """A score and an update: the host looks at whether they are finite, and at the metrics."""
    bonus = create("bonus", "rnd", VECTOR, ACTIONS)
    with ArcLimits() as limits:
        bonus.to(limits.device)
        rollout = walk(40, 2).to(limits.device)
        bonus.update(rollout)
        limits.syncs.clear()
        bonus.score(rollout)
        bonus.update(rollout)
        assert limits.syncs.total() <= 24, limits.syncs

"""The laws of bonuses: what the conformance kit asks of each."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.spaces import Space
from torch import Tensor
from torch.utils._pytree import tree_leaves

from athena_core import Component
from athena_core.testing import Check
from athena_explore._bonus import Bonus
from athena_explore._transition import Transition

BonusFactory = Callable[..., Bonus]

VECTOR = spaces.Box(-4, 4, (3,), np.float32)
ACTIONS = spaces.Discrete(3)
OTHER_SPACES: dict[str, tuple[Space, Space]] = {
    "images, channels last": (spaces.Box(0, 255, (7, 7, 3), np.uint8), ACTIONS),
    "images, channels first": (spaces.Box(0, 255, (1, 40, 40), np.uint8), ACTIONS),
    "discrete": (spaces.Discrete(6, start=2), ACTIONS),
    "multi-discrete, continuous actions": (spaces.MultiDiscrete([2, 3]), spaces.Box(-1, 1, (2,), np.float32)),
    "multi-binary, multi-discrete actions": (spaces.MultiBinary(4), spaces.MultiDiscrete([2, 3])),
    "dictionary": (spaces.Dict({"a": VECTOR, "b": spaces.Discrete(2)}), ACTIONS),
    "tuple, float64": (spaces.Tuple([spaces.Box(-1, 1, (2,), np.float64), spaces.Discrete(2)]), ACTIONS),
}


def example_bonus(target: BonusFactory) -> Bonus:
    """A bonus for vectors and three actions, which has learned from one rollout."""
    bonus = target(VECTOR, ACTIONS)
    bonus.update(walk(12, 2))
    return bonus


def walk(steps: int, environments: int, *, seed: int = 0, together: bool = True) -> Transition:
    """Random walks on a lattice, which come back to where they were, with episodes of both endings.

    ``together``: all environments end at the same steps, so that rows can be put in between for all of them.
    """
    draw = np.random.default_rng(seed)
    columns = 1 if together else environments
    terminated, truncated = (draw.random((2, steps, columns)) < 0.15).repeat(environments // columns, 2)
    action = draw.integers(0, 3, (steps, environments))
    position = np.zeros((environments, 3), np.float32)
    obs, next_obs = [], []
    for t in range(steps):
        obs.append(position)
        moved = position.copy()
        moved[np.arange(environments), action[t]] += draw.choice([-1, 1], environments)
        position = np.clip(moved, -4, 4)
        next_obs.append(position)
        position = np.where((terminated | truncated)[t][:, None], 0, position).astype(np.float32)
    return Transition(np.stack(obs), action, np.stack(next_obs), terminated, truncated)  # pyright: ignore[reportArgumentType]


def sampled(observation_space: Space, action_space: Space, steps: int, environments: int) -> Transition:
    """Transitions of values drawn from any spaces; each observation is the next one of the step before."""

    def draw(space: Space, count: int) -> Any:
        rows = [[space.sample() for _ in range(environments)] for _ in range(count)]
        return _stack(space, rows)

    observation_space.seed(0)
    action_space.seed(0)
    every = draw(observation_space, steps + 1)
    ends = np.zeros((2, steps, environments), bool)
    before, after = (_cut(observation_space, every, piece) for piece in (slice(0, -1), slice(1, None)))
    return Transition(before, draw(action_space, steps), after, *map(torch.as_tensor, ends))


def _stack(space: Space, rows: list[list[Any]]) -> Any:
    if isinstance(space, spaces.Dict):
        return {k: _stack(s, [[one[k] for one in row] for row in rows]) for k, s in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_stack(s, [[one[i] for one in row] for row in rows]) for i, s in enumerate(space.spaces))
    return torch.as_tensor(np.array(rows))


def _cut(space: Space, value: Any, piece: slice) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _cut(part, value[key], piece) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_cut(part, value[index], piece) for index, part in enumerate(space.spaces))
    return value[piece]


def with_reset_rows(transition: Transition) -> Transition:
    """The same under NEXT_STEP: after each end a row that is none, of an action that was ignored."""
    pieces: list[Transition] = []
    for t in range(transition.shape[0]):
        row = transition[t : t + 1]
        pieces.append(row)
        if bool(row.done.any()):
            no = torch.zeros_like(row.terminated)
            nothing = replace(row, obs=row.next_obs, next_obs=0 * row.next_obs, terminated=no, truncated=no)
            pieces.append(replace(nothing, valid=no))
    names = ("obs", "action", "next_obs", "terminated", "truncated", "valid")
    return Transition(**{name: torch.cat([getattr(piece, name) for piece in pieces]) for name in names})


def assert_same_state(one: Bonus, other: Bonus) -> None:
    """All that two bonuses have learned, counted and remembered, to rounding."""
    torch.testing.assert_close(_state(one), _state(other), rtol=1e-4, atol=1e-5)


def _state(bonus: Bonus) -> list[Any]:
    leaves = tree_leaves(bonus.state_dict())
    return [torch.as_tensor(leaf).clone() for leaf in leaves if isinstance(leaf, Tensor | int | float)]


def _close(one: Tensor, other: Tensor, message: str) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=lambda text: f"{message}: {text}")


def _scores_without_a_change(target: BonusFactory) -> None:
    bonus, rollout = example_bonus(target), walk(20, 2, seed=1)
    before = _state(bonus)
    first = bonus.score(rollout)
    again = bonus.score(rollout.map(torch.clone))  # another object: nothing kept from the first answers it
    assert first.shape == (20, 2), f"rewards have the shape {tuple(first.shape)}"
    assert bool(first.isfinite().all()), "rewards are not finite"
    assert not first.requires_grad, "rewards carry gradients"
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    torch.testing.assert_close(_state(bonus), before, rtol=0, atol=0)


def _updates_in_two_halves(target: BonusFactory) -> None:
    rollout = walk(20, 2, seed=1)
    one, other, third = (example_bonus(target) for _ in range(3))
    one.update(rollout)
    for half in (other.advance, other.learn):
        other.score(rollout)
        half(rollout)
        _close(other.score(rollout), other.score(rollout.map(torch.clone)), "an old answer is given again")
    third.score(rollout)
    third.update(rollout)
    assert_same_state(one, other)
    assert_same_state(one, third)


def _counts_time_within_a_rollout(target: BonusFactory) -> None:
    rollout = walk(20, 2, seed=1)
    whole, stepwise = example_bonus(target), example_bonus(target)
    whole.normalizer = stepwise.normalizer = None  # its scale counts a whole rollout before the first reward
    rewards = []
    for t in range(20):
        step = rollout[t : t + 1]
        rewards.append(stepwise.score(step))
        stepwise.advance(step)
    _close(whole.score(rollout), torch.cat(rewards), "20 steps at once and one by one differ")
    whole.advance(rollout)
    assert_same_state(whole, stepwise)


def _ignores_rows_that_only_reset(target: BonusFactory) -> None:
    plain = walk(30, 2, seed=1)
    padded = with_reset_rows(plain)
    assert padded.shape[0] > 30
    one, other = example_bonus(target), example_bonus(target)
    rewards = other.score(padded)
    _close(one.score(plain), rewards[padded.valid].view(30, 2), "NEXT_STEP changes rewards")
    assert not bool(rewards[~padded.valid].any()), "a row that only resets has a reward"
    one.update(plain)
    other.update(padded)
    assert_same_state(one, other)


def _takes_both_ends_alike(target: BonusFactory) -> None:
    rollout = walk(30, 2, seed=1)
    swapped = replace(rollout, terminated=rollout.truncated, truncated=rollout.terminated)
    one, other = example_bonus(target), example_bonus(target)
    _close(one.score(rollout), other.score(swapped), "truncation and termination differ")
    one.update(rollout)
    other.update(swapped)
    assert_same_state(one, other)


def _knows_episodes_or_not(target: BonusFactory) -> None:
    rollout = walk(40, 3, seed=1, together=False)
    no = torch.zeros_like(rollout.terminated)
    endless = replace(rollout, terminated=no, truncated=no)
    bonus = example_bonus(target)
    bonus.normalizer = None
    bonus.clear_episodes()
    rewards = bonus.score(rollout)
    if not bonus.episodic:
        _close(rewards, bonus.score(endless), "not `episodic`, yet the ends of episodes matter")
        return
    assert not torch.allclose(rewards, bonus.score(endless)), "`episodic`, yet ends clear nothing"
    for n in range(3):
        alone = bonus.score(rollout[:, n : n + 1])
        _close(rewards[:, n : n + 1], alone, "an environment's episodes depend on another's")


def _takes_environments_as_more_steps(target: BonusFactory) -> None:
    rollout = walk(20, 3, seed=1, together=False)
    in_a_row = rollout.map(lambda tensor: tensor.flatten(0, 1)[:, None])
    one, other = example_bonus(target), example_bonus(target)
    if one.episodic:
        return
    one.normalizer = other.normalizer = None  # its filter is each environment's own
    for bonus in (one, other):
        bonus.clear_episodes()
    _close(one.score(rollout).flatten(), other.score(in_a_row).flatten(), "3 x 20 and 1 x 60 steps differ")
    one.advance(rollout)
    other.advance(in_a_row)
    one.clear_episodes()
    other.clear_episodes()  # else the number of environments differs
    assert_same_state(one, other)


def _takes_a_scale(target: BonusFactory) -> None:
    assert target(VECTOR, ACTIONS, normalize="none").normalizer is None, "`normalize` is not handed on"
    scaled = target(VECTOR, ACTIONS, normalize="return", gamma=0.25).normalizer
    assert scaled is not None, "`normalize` is not handed on"
    assert scaled.gamma == 0.25, "`gamma` is not handed on"


def _goes_on_from_a_checkpoint(target: BonusFactory) -> None:
    bonus = example_bonus(target)
    bonus.update(walk(20, 2, seed=1))
    file = io.BytesIO()
    torch.save(bonus.state_dict(), file)
    file.seek(0)
    fresh = target(VECTOR, ACTIONS, seed=99)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for seed in (2, 3):
        rollout = walk(20, 2, seed=seed)
        torch.testing.assert_close(fresh.score(rollout), bonus.score(rollout), rtol=0, atol=0)
        assert fresh.update(rollout) == bonus.update(rollout), "the metrics differ"
    torch.testing.assert_close(_state(fresh), _state(bonus), rtol=0, atol=0)


def _numpy_keys() -> Any:
    return np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002  the global generator is meant


def _leaves_global_randomness_alone(target: BonusFactory) -> None:
    before = torch.get_rng_state(), random.getstate(), _numpy_keys()
    bonus = example_bonus(target)
    bonus.score(walk(20, 2, seed=1))
    bonus.update(walk(20, 2, seed=1))
    assert torch.equal(torch.get_rng_state(), before[0]), (
        "torch's global generator moved: draw inside `with self.own_random():`"
    )
    assert random.getstate() == before[1], "Python's global generator moved"
    assert np.array_equal(_numpy_keys(), before[2]), "NumPy's global generator moved"


def _lets_no_gradient_out(target: BonusFactory) -> None:
    bonus, rollout = example_bonus(target), walk(20, 2, seed=1)
    leaf = rollout.next_obs.clone().requires_grad_()
    with_gradient = replace(rollout, next_obs=leaf, obs=rollout.obs.clone().requires_grad_())
    assert not bonus.score(with_gradient).requires_grad
    bonus.update(with_gradient)
    assert leaf.grad is None, "training the bonus reached the observations"
    assert with_gradient.obs.grad is None, "training the bonus reached the observations"


def _takes_other_spaces(target: BonusFactory) -> None:
    for name, (observation_space, action_space) in OTHER_SPACES.items():
        bonus = target(observation_space, action_space)
        rollout = sampled(observation_space, action_space, 6, 2)
        try:
            bonus.update(rollout)
            rewards = bonus.score(rollout)
            bonus.update(rollout)
        except (RuntimeError, TypeError, IndexError) as error:
            raise AssertionError(f"{name}: {error}") from error
        assert rewards.shape == (6, 2), f"{name}: the rewards have the shape {tuple(rewards.shape)}"
        assert bool(rewards.isfinite().all()), f"{name}: rewards are not finite"


def _takes_nothing(target: BonusFactory) -> None:
    bonus, rollout = example_bonus(target), walk(4, 2)
    bonus.update(rollout)
    before = _state(bonus)
    nothing = replace(rollout, valid=torch.zeros_like(rollout.valid))
    for empty in (nothing, rollout[:0]):
        assert not bool(bonus.score(empty).any())
        bonus.update(empty)
    torch.testing.assert_close(_state(bonus), before, rtol=0, atol=0)


def _refuses(action: Callable[[], object], *words: str) -> None:
    try:
        action()
    except ValueError as error:
        said = str(error)
    else:
        raise AssertionError(f"no ValueError that says {words}")
    missing = [word for word in words if word not in said]
    assert not missing, f"the error lacks {missing}: {said}"


def _says_what_is_wrong(target: BonusFactory) -> None:
    bonus, rollout = example_bonus(target), walk(4, 2)
    nan = rollout.next_obs.clone()
    nan[1, 1, 2] = torch.nan
    _refuses(lambda: bonus.score(replace(rollout, next_obs=nan)), "next_obs", "nan", "[1, 1, 2]")
    narrow = replace(rollout, obs=rollout.obs[..., :2])
    _refuses(lambda: bonus.update(narrow), "obs", "(4, 2, 3)", "(4, 2, 2)")
    _refuses(lambda: bonus.score(rollout[:, :1]), "2 environments", "got 1", "clear_episodes")
    _refuses(lambda: target(spaces.Text(3), ACTIONS), "observation_space", "Text")
    other = target(spaces.Box(-4, 4, (3,), np.float32), spaces.Discrete(4))
    _refuses(lambda: other.load_state_dict(bonus.state_dict()), "checkpoint", "Discrete(4)", "Discrete(3)")
    if bonus.episodic:
        _refuses(lambda: bonus.score_samples(rollout.flat()), "score_samples", type(bonus).__name__)
    else:
        assert bonus.score_samples(rollout.flat()).shape == (8,)


def bonus_checks(component: Component, target: BonusFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of a bonus that is made from spaces alone."""
    laws = {
        "it scores without a change": _scores_without_a_change,
        "an update is its two halves": _updates_in_two_halves,
        "a rollout at once is its steps one by one": _counts_time_within_a_rollout,
        "rows that only reset enter nothing": _ignores_rows_that_only_reset,
        "termination and truncation clear alike": _takes_both_ends_alike,
        "it knows episodes, each environment's own, or none": _knows_episodes_or_not,
        "N environments of T steps are one of N x T, without episodes": _takes_environments_as_more_steps,
        "its rewards are scaled where asked": _takes_a_scale,
        "it goes on from a checkpoint": _goes_on_from_a_checkpoint,
        "global randomness is left alone": _leaves_global_randomness_alone,
        "no gradient gets out": _lets_no_gradient_out,
        "it takes all supported spaces": _takes_other_spaces,
        "it takes an empty rollout": _takes_nothing,
        "it says what is wrong": _says_what_is_wrong,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))

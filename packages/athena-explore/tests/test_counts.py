"""Counts beside a dictionary of bytes, worked values, and what is counted when."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from athena_explore import Counts, Transition
from athena_explore._bonus_laws import walk

ACTIONS = spaces.Discrete(3)
STATES = spaces.Discrete(9)
LATTICE = spaces.Box(-4, 4, (3,), np.float32)
BONUSES: dict[str, Callable[[int, int], float]] = {
    "sqrt": lambda n, _: n**-0.5,
    "ucb": lambda n, t: math.sqrt(2 * math.log(t) / n),
    "mbie-eb": lambda n, _: 0.05 * n**-0.5,
}


class Plain:
    """A dictionary from bytes to visits, one row after the other."""

    def __init__(self, key: Callable[[Transition, int, int], Hashable], *, form: str, decay: float) -> None:
        self.key, self.bonus, self.decay = key, BONUSES[form], decay
        self.visits: dict[Hashable, int] = {}
        self.time = 0

    def __call__(self, transition: Transition) -> Tensor:
        rewards = torch.zeros(transition.shape, dtype=torch.float64)
        for t in range(transition.shape[0]):
            for n in range(transition.shape[1]):
                if transition.valid[t, n]:
                    key = self.key(transition, t, n)
                    self.time += 1
                    self.visits[key] = self.visits.get(key, 0) + 1
                    factor = (1 - self.decay) ** (self.time - 1)
                    rewards[t, n] = factor * self.bonus(self.visits[key], self.time)
        return rewards


def state_key(transition: Transition, t: int, n: int) -> Hashable:
    return (transition.next_obs[t, n] + 0.0).numpy().tobytes()


def pair_key(transition: Transition, t: int, n: int) -> Hashable:
    return (transition.obs[t, n] + 0.0).numpy().tobytes(), int(transition.action[t, n])


def visit(*states: int, actions: list[int] | None = None, before: list[int] | None = None) -> Transition:
    """Steps of one environment, which arrive at these states."""
    arrived, ends = torch.tensor(states)[:, None], torch.zeros(len(states), 1, dtype=torch.bool)
    left = torch.tensor(before)[:, None] if before else torch.zeros_like(arrived)
    taken = torch.tensor(actions)[:, None] if actions else torch.zeros_like(arrived)
    return Transition(left, taken, arrived, ends, ends)


@pytest.mark.parametrize("form", BONUSES)
@pytest.mark.parametrize("of", ["state", "state-action"])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_counts_are_those_of_a_dictionary(form: Any, of: Any, decay: float):
    bonus = Counts(LATTICE, ACTIONS, of=of, form=form, beta=0.05, decay=decay)
    plain = Plain(state_key if of == "state" else pair_key, form=form, decay=decay)
    for seed, steps in enumerate((1, 40, 0, 25)):
        rollout = walk(40, 3, seed=seed, together=False)[:steps]
        rollout = replace(rollout, valid=torch.rand(steps, 3) < 0.9)
        rewards = bonus.score(rollout)
        torch.testing.assert_close(rewards.double(), plain(rollout), rtol=1e-5, atol=1e-6)
        assert bonus.update(rollout) == {"states": len(plain.visits)}
    samples = walk(30, 2, seed=9).flat()
    ordered = samples[None]
    expected = [plain.visits.get(plain.key(ordered, 0, i), 0) for i in range(60)]
    assert bonus.visits(samples).tolist() == expected
    now = [(1 - decay) ** (plain.time - 1) * plain.bonus(max(n, 1), plain.time) for n in expected]
    torch.testing.assert_close(bonus.score_samples(samples), torch.tensor(now), rtol=1e-5, atol=1e-6)


def test_worked_values_of_each_form():
    visits = visit(3, 3, 5, 3)
    assert Counts(STATES, ACTIONS).score(visits).flatten().tolist() == pytest.approx([1, 2**-0.5, 1, 3**-0.5])
    ucb = Counts(STATES, ACTIONS, form="ucb").score(visits).flatten().tolist()
    assert ucb == pytest.approx([0, 0.832555, 1.482304, 0.961351], abs=1e-6)
    mbie = Counts(STATES, ACTIONS, form="mbie-eb", beta=0.05).score(visits).flatten().tolist()
    assert mbie == pytest.approx([0.05, 0.0353553, 0.05, 0.0288675], abs=1e-6)
    decayed = Counts(STATES, ACTIONS, decay=0.5).score(visits).flatten().tolist()
    assert decayed == pytest.approx([1, 0.5 * 2**-0.5, 0.25, 0.125 * 3**-0.5])


def test_pairs_are_of_the_state_that_the_action_was_taken_in():
    """Minigrid#402: an action was counted with the state that it led to."""
    bonus = Counts(STATES, ACTIONS, of="state-action")
    to_different = visit(1, 2, 3, before=[0, 0, 0], actions=[2, 2, 2])
    assert bonus.score(to_different).flatten().tolist() == pytest.approx([1, 2**-0.5, 3**-0.5])
    to_the_same = visit(1, 1, 1, before=[4, 5, 6], actions=[2, 2, 2])
    assert bonus.score(to_the_same).flatten().tolist() == [1, 1, 1]
    other_actions = visit(1, 1, 1, before=[4, 4, 4], actions=[0, 1, 2])
    assert bonus.score(other_actions).flatten().tolist() == [1, 1, 1]


def test_states_are_those_arrived_at_ends_included():
    bonus = Counts(STATES, ACTIONS)
    bonus.update(visit(7, before=[2]))
    assert bonus.visits(visit(2, 7)).flatten().tolist() == [0, 1]
    ended = visit(7)
    bonus.update(replace(ended, terminated=torch.tensor([[True]])))
    assert bonus.visits(visit(7)).item() == 2


def test_counts_live_as_long_as_the_bonus():
    bonus = Counts(STATES, ACTIONS)
    bonus.update(visit(1, 1))
    bonus.clear_episodes()
    assert bonus.visits(visit(1)).item() == 2


def test_samples_add_no_visits_and_are_looked_up_as_the_counts_are_now():
    """A stored bonus goes stale: the same sample is worth less after more visits."""
    bonus, sample = Counts(STATES, ACTIONS), visit(1).flat()
    assert bonus.score_samples(sample).tolist() == [1]
    assert bonus.score_samples(sample).tolist() == [1]
    bonus.update(visit(1, 1, 1, 1))
    assert bonus.score_samples(sample).tolist() == [0.5]
    assert bonus.visits(sample).tolist() == [4]


def test_scoring_other_transitions_between_changes_nothing():
    rollout, other = walk(20, 2, seed=1), walk(20, 2, seed=2)
    one, two = (Counts(LATTICE, ACTIONS) for _ in range(2))
    one.score(rollout)
    one.score(other)
    one.update(rollout)
    two.update(rollout)
    torch.testing.assert_close(one.score(other), two.score(other), rtol=0, atol=0)


def test_what_was_found_before_others_were_added_is_looked_for_again():
    table, keys = Counts(STATES, ACTIONS).table, torch.randint(2**40, (30,))
    found = table.find(keys)
    table.add(keys.flip(0), torch.ones_like(keys))
    table.add(keys, torch.ones_like(keys), found=found)
    assert table.look_up(keys).tolist() == [2] * 30


def test_bins_make_near_states_and_actions_one():
    box = spaces.Box(-1, 1, (2,))
    ends = torch.zeros(3, 1, dtype=torch.bool)
    obs = torch.tensor([[0.1, 0.2], [0.2, 0.3], [0.6, 0.3]])[:, None]
    transition = Transition(obs, obs, obs, ends, ends)
    for of in ("state", "state-action"):
        rewards = Counts(box, box, bins=4, of=of).score(transition).flatten().tolist()
        assert rewards == pytest.approx([1, 2**-0.5, 1])
        assert Counts(box, box, of=of).score(transition).flatten().tolist() == [1, 1, 1]


def test_a_checkpoint_holds_sorted_keys_and_their_counts():
    bonus = Counts(LATTICE, ACTIONS)
    bonus.update(walk(50, 2))
    file = io.BytesIO()
    torch.save(bonus.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    table = state["table._extra_state"]
    assert table["keys"].dtype == table["counts"].dtype == torch.int64
    assert torch.equal(table["keys"], table["keys"].sort().values)
    assert int(table["counts"].sum()) == 100
    fresh = Counts(LATTICE, ACTIONS, seed=5)
    fresh.load_state_dict(state)
    rollout = walk(20, 2, seed=3)
    assert torch.equal(fresh.visits(rollout), bonus.visits(rollout))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bins": 8}, "of state, bins 4; got .*of state, bins 8"),
        ({"of": "state-action"}, "got .*state-action"),
    ],
)
def test_keys_of_other_options_are_refused(options: dict[str, Any], words: str):
    space = spaces.Box(-1, 1, (2,))
    counts = Counts(space, spaces.Discrete(3), bins=4)
    other = Counts(space, spaces.Discrete(3), **{"bins": 4, **options})
    with pytest.raises(ValueError, match=words):
        counts.load_state_dict(other.state_dict())


def test_memory_is_bounded_by_the_documented_bytes_of_a_state():
    bonus = Counts(spaces.Discrete(10**9), ACTIONS)
    for _ in range(20):
        states = torch.randint(10**9, (128, 8))
        ends = torch.zeros(128, 8, dtype=torch.bool)
        bonus.update(Transition(states, torch.zeros(128, 8), states, ends, ends))
    assert 32 <= 16 * bonus.table.slots / len(bonus.table) <= 64


def test_many_visits_are_counted_exactly():
    bonus = Counts(STATES, ACTIONS)
    bonus.table.add(bonus.states(torch.tensor([4])), torch.tensor([2**40]))
    bonus.update(visit(4))
    assert bonus.visits(visit(4)).item() == 2**40 + 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"of": "action"}, '`of` must be "state" or "state-action"; got \'action\''),
        ({"form": "cube"}, "`form` must be"),
        ({"beta": 0.0}, "`beta` must be a positive number; got 0.0"),
        ({"decay": 1.0}, r"`decay` must lie in \[0, 1\); got 1.0"),
        ({"bins": 1}, "`bins` must be at least 2; got 1"),
    ],
)
def test_refuses_bad_options(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Counts(STATES, ACTIONS, **options)

"""Counts within episodes beside dictionaries, one an environment."""

from __future__ import annotations

import copy

import hypothesis.strategies as st
import torch
from hypothesis import given
from torch import Tensor

from athena_explore._count_table import CountTable, occurrences
from athena_explore._episodic_counts import EpisodicCounts


class Plain:
    """A dictionary for each environment, emptied where its episode ends."""

    def __init__(self, n_envs: int) -> None:
        self.visits: list[dict[int, int]] = [{} for _ in range(n_envs)]

    def __call__(self, keys: Tensor, done: Tensor, valid: Tensor) -> Tensor:
        counts = torch.ones_like(keys)
        for t in range(keys.shape[0]):
            for n, visits in enumerate(self.visits):
                if not valid[t, n]:
                    continue
                key = int(keys[t, n])
                visits[key] = visits.get(key, 0) + 1
                counts[t, n] = visits[key]
                if done[t, n]:
                    visits.clear()
        return counts


def draw(steps: int, n_envs: int, *, states: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    shape = steps, n_envs
    return torch.randint(-states, states, shape), torch.rand(shape) < 0.1, torch.rand(shape) < 0.9


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(1, 4), st.integers(0, 2**31))
def test_counts_are_those_of_dictionaries(lengths: list[int], n_envs: int, seed: int):
    torch.manual_seed(seed)
    counts, plain = EpisodicCounts(), Plain(n_envs)
    for steps in lengths:
        rollout = draw(steps, n_envs)
        found, after = counts(*rollout)
        again, _ = counts(*rollout)
        assert torch.equal(found, again)  # asking changes nothing
        assert torch.equal(found, plain(*rollout))
        counts.commit(after)


def test_one_rollout_is_as_many_steps():
    keys, done, valid = draw(60, 3)
    whole, _ = EpisodicCounts()(keys, done, valid)
    counts = EpisodicCounts()
    for t in range(60):
        found, after = counts(keys[t : t + 1], done[t : t + 1], valid[t : t + 1])
        assert torch.equal(found[0], whole[t])
        counts.commit(after)


def test_a_row_that_is_done_but_not_valid_ends_nothing():
    counts = EpisodicCounts()
    keys, done = torch.full((3, 1), 8), torch.tensor([[False], [True], [False]])
    found, _ = counts(keys, done, torch.tensor([[True], [False], [True]]))
    assert found.flatten().tolist() == [1, 1, 2]


def test_environments_share_nothing():
    counts = EpisodicCounts()
    keys = torch.full((3, 4), 8)
    found, _ = counts(keys, torch.zeros(3, 4, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool))
    assert torch.equal(found, torch.tensor([1, 2, 3])[:, None].expand(3, 4))


def test_ended_episodes_are_forgotten_so_that_memory_is_bounded():
    counts = EpisodicCounts()
    for _ in range(300):
        keys = torch.randint(2**40, (20, 2))
        done = torch.zeros(20, 2, dtype=torch.bool)
        done[9] = True
        counts.commit(counts(keys, done, torch.ones_like(done))[1])
    assert counts.table.slots <= 6 * 2 * 40
    assert len(counts.table) == 2 * 10  # those of the episodes under way


def test_saved_and_loaded_counts_go_on_the_same():
    counts, plain = EpisodicCounts(), Plain(3)
    for _ in range(5):
        rollout = draw(9, 3)
        plain(*rollout)
        counts.commit(counts(*rollout)[1])
    other = EpisodicCounts()
    other.load_state_dict(counts.state_dict())
    rollout = draw(9, 3)
    assert torch.equal(other(*rollout)[0], plain(*rollout))


def test_a_copy_goes_its_own_way():
    counts, plain = EpisodicCounts(), Plain(3)
    rollout, other = draw(200, 3, states=90), draw(200, 3, states=90)
    plain(*rollout)
    counts.commit(counts(*rollout)[1])
    twin = copy.deepcopy(counts)
    for _ in range(5):  # until the twin forgets what has ended in it alone
        twin.commit(twin(*draw(200, 3, states=90))[1])
    assert torch.equal(counts(*other)[0], plain(*other))


def test_clear_forgets_all_and_lets_other_environments_come():
    counts = EpisodicCounts()
    counts.commit(counts(*draw(9, 3))[1])
    counts.clear()
    rollout = draw(9, 2)
    assert torch.equal(counts(*rollout)[0], Plain(2)(*rollout))


def test_no_rows_change_nothing():
    counts = EpisodicCounts()
    found, after = counts(*draw(0, 3))
    assert found.shape == (0, 3)
    counts.commit(after)
    rollout = draw(5, 3)
    assert torch.equal(counts(*rollout)[0], Plain(3)(*rollout))


@given(st.lists(st.lists(st.integers(-9, 9), max_size=30), max_size=8))
def test_a_table_is_a_dictionary(batches: list[list[int]]):
    table, plain = CountTable(), dict[int, int]()
    for batch in batches:
        keys, amounts = torch.tensor(batch, dtype=torch.int64).unique(return_counts=True)
        table.add(keys, amounts)
        for key in batch:
            plain[key] = plain.get(key, 0) + 1
        asked = torch.arange(-12, 12)
        assert table.look_up(asked).tolist() == [plain.get(key, 0) for key in asked.tolist()]
        assert len(table) == len(plain)
        entries = table.entries()
        assert entries["keys"].tolist() == sorted(plain)
        assert entries["counts"].tolist() == [plain[key] for key in sorted(plain)]


def test_a_table_grows_and_stays_within_its_bytes():
    table, keys = CountTable(), torch.randint(-(2**62), 2**62, (60_000,))
    for part in keys.split(700):
        table.add(part, torch.ones_like(part))
        if len(table) > 100:
            assert 2 * len(table) <= table.slots <= 4 * len(table)
    assert bool((table.look_up(keys) == 1).all())
    assert table.look_up(keys + 1).sum() == 0
    table.clear()
    assert len(table) == 0


def test_occurrences_are_told_for_each_column_by_itself():
    keys = torch.randint(0, 4, (50, 3))
    nth, last = occurrences(keys)
    for t in range(50):
        assert torch.equal(nth[t], (keys[: t + 1] == keys[t]).sum(0))
        assert torch.equal(last[t], ~(keys[t + 1 :] == keys[t]).any(0))
    assert occurrences(keys[:0])[0].shape == (0, 3)


def test_a_checkpoint_does_not_depend_on_the_order_in_which_keys_came():
    keys = torch.randint(-(2**62), 2**62, (500,))
    one, other = CountTable(), CountTable()
    one.add(keys, torch.ones_like(keys))
    for part in keys.flip(0).split(7):
        other.add(part, torch.ones_like(part))
    torch.testing.assert_close(one.get_extra_state(), other.get_extra_state(), rtol=0, atol=0)

"""Batches: resumed, repeated, shared by workers and ranks (pitfall 18)."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data import DataLoader

from athena_meta import EpisodeBatches, Episodes, EpisodeSampler, EpisodeSource, FewShotDataset, Sinusoids

# More workers than cores slow a loader down; here they are few and short.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Numbers(EpisodeSource):
    """Episode ``i`` is the number ``i``."""

    def __init__(self, length: int | None = None) -> None:
        self.length = length

    def draw(self, first: int, count: int) -> Episodes:
        x = torch.arange(first, first + count)[:, None]
        return Episodes(x, x, x, x)


def drawn(batches: Iterable[Episodes]) -> list[list[int]]:
    return [batch.support_x.flatten().tolist() for batch in batches]


def take(batches: EpisodeBatches, number: int) -> list[list[int]]:
    return drawn(batch for batch, _ in zip(batches, range(number), strict=False))


def test_batches_come_in_order_without_end() -> None:
    assert take(Numbers().batches(3), 3) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_a_number_of_batches_comes_again_and_again() -> None:
    batches = Numbers().batches(2, number=2)
    assert drawn(batches) == drawn(batches) == [[0, 1], [2, 3]]
    assert drawn(Numbers().batches(2, number=0)) == []


def test_left_early_it_goes_on_with_the_next() -> None:
    batches = Numbers().batches(1, number=4)
    for batch in batches:
        if batch.support_x.item() == 1:
            break
    assert drawn(batches) == [[2], [3]]
    assert drawn(batches) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("stop", range(5))
def test_resumed_equals_uninterrupted(stop: int) -> None:
    whole = Numbers().batches(2, number=4)
    expected = drawn(whole) + drawn(whole)
    first = Numbers().batches(2, number=4)
    iterator = iter(first)
    seen = drawn(next(iterator) for _ in range(stop))
    second = Numbers().batches(2, number=4)
    second.load_state_dict(first.state_dict())
    assert seen + drawn(second) + drawn(second) == expected


def test_seek_moves_a_running_iterator() -> None:
    batches = Numbers().batches(1)
    iterator = iter(batches)
    next(iterator)
    batches.seek(7)
    assert next(iterator).support_x.item() == 7
    with pytest.raises(ValueError, match="`batch` must not be negative; got -1"):
        batches.seek(-1)


def test_a_source_with_an_end_has_a_smaller_last_batch() -> None:
    assert drawn(Numbers(5).batches(2)) == [[0, 1], [2, 3], [4]]
    assert drawn(Numbers(4).batches(2)) == [[0, 1], [2, 3]]
    assert drawn(Numbers(5).batches(2, number=2)) == [[0, 1], [2, 3]]
    assert drawn(Numbers(0).batches(2)) == []


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_together_see_what_one_process_sees(ranks: int) -> None:
    parts = [take(Numbers().batches(2, rank=rank, ranks=ranks), 3) for rank in range(ranks)]
    together = [[*chain(*step)] for step in zip(*parts, strict=True)]
    assert together == take(Numbers().batches(2 * ranks), 3)
    ended = [drawn(Numbers(7).batches(2, rank=rank, ranks=ranks)) for rank in range(ranks)]
    assert sorted(chain(*chain(*ended))) == list(range(7))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_keep_the_order_of_one_process(workers: int) -> None:
    data = FewShotDataset(torch.rand(60, 4), torch.arange(60) % 6)
    batches = EpisodeSampler(data, n_query=3, seed=1).batches(2, number=5)
    batches.seek(1)
    expected = [*EpisodeSampler(data, n_query=3, seed=1).batches(2, number=5)][1:]
    for _ in range(2):  # workers count for themselves: each epoch starts where the loader was made
        loaded = [*DataLoader(batches, batch_size=None, num_workers=workers)]
        assert len(loaded) == len(expected)
        for ours, other in zip(loaded, expected, strict=True):
            assert isinstance(ours, Episodes)
            assert all(torch.equal(a, b) for a, b in zip(ours, other, strict=True))


def test_workers_that_stay_start_again_too() -> None:
    loader = DataLoader(
        Numbers().batches(1, number=5), batch_size=None, num_workers=2, persistent_workers=True
    )
    assert drawn(loader) == drawn(loader) == [[0], [1], [2], [3], [4]]
    for batch in loader:
        if batch.support_x.item() == 2:
            break
    assert drawn(loader) == [[0], [1], [2], [3], [4]]


def test_regression_tasks_go_through_workers() -> None:
    tasks = Sinusoids(k_shot=3, n_query=2, seed=5)
    loaded = [*DataLoader(tasks.batches(4, number=3), batch_size=None, num_workers=2)]
    for ours, other in zip(loaded, tasks.batches(4, number=3), strict=True):
        assert ours.classes is None
        assert torch.equal(ours.query_y, other.query_y)


def spawned(rank: int, port: int, folder: str) -> None:
    """A process of two, whose loader spawns a worker that has no process group."""
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    batches = Sinusoids(k_shot=2, n_query=1, seed=8).batches(2, number=3)
    loader = DataLoader(batches, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    torch.save({"here": supports(batches), "worker": supports(loader)}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def supports(batches: Iterable[Episodes]) -> torch.Tensor:
    return torch.stack([batch.support_x for batch in batches])


def test_two_processes_and_their_spawned_workers(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(spawned, (port, str(tmp_path)), nprocs=2, start_method="fork")
    seen = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    whole = supports(Sinusoids(k_shot=2, n_query=1, seed=8).batches(4, number=3))
    for part in ("here", "worker"):
        assert torch.equal(torch.cat([seen[0][part], seen[1][part]], dim=1), whole)


def test_copies_keep_a_rank_that_was_given() -> None:
    batches = Numbers().batches(1, number=2, rank=1, ranks=2)
    assert drawn(pickle.loads(pickle.dumps(batches))) == drawn(batches) == [[1], [3]]
    plain = pickle.loads(pickle.dumps(Numbers().batches(1)))
    assert (plain.rank, plain.ranks) == (None, None)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tasks": 0}, "`tasks` must be at least 1; got 0"),
        ({"tasks": 1, "number": -1}, "`number` must not be negative; got -1"),
        ({"tasks": 1, "rank": 2, "ranks": 2}, r"`rank` must lie in \[0, `ranks` - 1\]; got rank 2 of 2"),
        ({"tasks": 1, "rank": 0}, "got rank 0 of None. Give both or neither"),
        ({"tasks": 1, "ranks": 2}, "got rank None of 2"),
        ({"tasks": 1, "rank": -1, "ranks": 2}, "got rank -1 of 2"),
    ],
)
def test_what_is_no_batch_is_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Numbers().batches(**options)

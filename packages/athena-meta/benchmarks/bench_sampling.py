"""Time of an episode, sampler and images: EpisodeSampler, and easyfsl's sampler with a DataLoader.

Images of 28 x 28, 1,200 classes of 20, in memory. The peer has floats already; ours are floats, and
uint8 as Omniglot and Glyphs are kept. Each gives a batch of tasks: ours in one gather, the peer task by task.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from athena_core.testing import bench
from athena_meta import Episodes, EpisodeSampler, FewShotDataset

CLASSES, EACH = 1200, 20


def easyfsl_sampler() -> Any:
    """The peer's sampler, or None where it is not installed; of what reads its files the names suffice."""
    for package in ("torchvision", "pandas"):
        try:
            importlib.import_module(package)
        except ImportError:
            for name in ("", ".datasets", ".transforms", ".models", ".models.resnet"):
                module: Any = ModuleType(package + name)
                module.__getattr__ = lambda wanted: type(wanted, (), {})
                module.__path__ = []
                sys.modules[package + name] = module
    # torch dropped the argument that the peer still passes.
    Sampler.__init__ = lambda self, data_source=None: None
    try:
        return importlib.import_module("easyfsl.samplers").TaskSampler
    except ImportError as error:
        print(f"without easyfsl: {error}")
        return None


class InMemory(Dataset[tuple[torch.Tensor, int]]):
    """What the peer asks of a data set."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels.tolist()

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)

    def get_labels(self) -> list[int]:
        return self.labels


def peer(sampler: Any, data: InMemory, shape: dict[str, int], tasks: int) -> Callable[[], Episodes]:
    """A batch of so many tasks of the peer."""
    chosen = sampler(data, shape["n_way"], shape["k_shot"], shape["n_query"], n_tasks=10**9)
    loader = DataLoader(data, batch_sampler=chosen, collate_fn=chosen.episodic_collate_fn)
    iterator = iter(loader)

    def batch() -> Episodes:
        drawn = [next(iterator)[:4] for _ in range(tasks)]
        return Episodes(*(torch.stack(part) for part in zip(*drawn, strict=True)))

    return batch


def ours(data: FewShotDataset, shape: dict[str, int], tasks: int) -> Callable[[], Episodes]:
    """A batch of so many tasks of ours."""
    iterator = iter(EpisodeSampler(data, **shape).batches(tasks))
    return lambda: next(iterator)


def repeated(batch: Callable[[], Episodes], tasks: int) -> float:
    """Seconds an episode, over 64 of them."""
    times = max(1, 64 // tasks)

    def batches() -> None:
        for _ in range(times):
            batch()

    return bench.seconds(batches) / (times * tasks)


def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    """5-way 5-shot 15-query, the bar being 10 times the peer, and the training episode of a ProtoNet."""
    kept = torch.randint(0, 256, (CLASSES * EACH, 1, 28, 28), dtype=torch.uint8)
    labels = torch.arange(len(kept)) % CLASSES
    floats = kept / 255
    sampler = easyfsl_sampler()
    for n_way, k_shot, n_query, tasks in ((5, 5, 15, 1), (5, 5, 15, 32), (60, 5, 5, 1)):
        shape = {"n_way": n_way, "k_shot": k_shot, "n_query": n_query}
        its = None if sampler is None else peer(sampler, InMemory(floats, labels), shape, tasks)
        for dtype, images in (("float", floats), ("uint8", kept)):
            mine = ours(FewShotDataset(images, labels), shape, tasks)
            drawn = [mine()] if its is None else [mine(), its()]
            assert len({tuple(part.shape for part in batch[:4] if part is not None) for batch in drawn}) == 1
            each = bench.medians(
                repeats, *(partial(repeated, batch, tasks) for batch in (mine, its) if batch)
            )
            took = [1e6 * time for time in each]
            case = f"{n_way}-way {k_shot}-shot {n_query}-query, {tasks} at once, {dtype}"
            peers = {"easyfsl": took[1]} if its else {"bar": 1e6}
            yield bench.row(case, ours=took[0], peers=peers, unit="us an episode")


if __name__ == "__main__":
    bench.run(bench.parser(__doc__, repeats=30), rows)

"""N-way K-shot episodes of a data set, each known by its number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from athena_meta import _counter as counter
from athena_meta._episode_source import EpisodeSource
from athena_meta._episodes import Episodes
from athena_meta._few_shot_dataset import FewShotDataset
from athena_meta._whole import whole

Count = int | Sequence[int]

# Streams of one episode: what each child of its key is for. The images of way w have the child IMAGES + w.
_CLASSES, _SHOTS, _QUERIES, _IMAGES = 0, 1, 2, 3

# Episodes asked for singly are chosen so many at once, which takes little longer than one, and kept.
_BLOCK = 32


class Selection(NamedTuple):
    """What an episode is made of, without its images; the first axis of all is the task.

    ``classes (tasks, n_way)``; ``support (tasks, n_support)`` and ``query (tasks, n_query)`` are numbers of
    images, ``support_y`` and ``query_y`` their labels, which count the classes of the task.

    >>> from athena_meta import FewShotDataset
    >>> data = FewShotDataset(torch.rand(60, 8), torch.arange(60) % 6)
    >>> chosen = EpisodeSampler(data, n_way=3, n_query=2, seed=0).select(0, 1)
    >>> bool((data.labels[chosen.support] == chosen.classes.gather(1, chosen.support_y)).all())
    True
    """

    classes: Tensor
    support: Tensor
    support_y: Tensor
    query: Tensor
    query_y: Tensor


def fetched(dataset: FewShotDataset, query_dataset: FewShotDataset, chosen: Selection) -> Episodes:
    """The episodes with the images of a selection, in one gather where both sides are of one data set."""
    if query_dataset is dataset:
        images = dataset.fetch(torch.cat([chosen.support.flatten(), chosen.query.flatten()]))
        support_x, query_x = images.split([chosen.support.numel(), chosen.query.numel()])
        support_x = support_x.reshape(*chosen.support.shape, *images.shape[1:])
        query_x = query_x.reshape(*chosen.query.shape, *images.shape[1:])
    else:
        support_x, query_x = dataset.fetch(chosen.support), query_dataset.fetch(chosen.query)
    return Episodes(support_x, chosen.support_y, query_x, chosen.query_y, chosen.classes)


class EpisodeSampler(EpisodeSource):
    r"""Draws ``n_way`` classes, and of each ``k_shot`` images to learn from and ``n_query`` to be judged by.

    Classes and images are drawn uniformly without replacement, by a counter-based generator: all of episode
    :math:`i` follows from the seed and :math:`i`. Support and query have no image in common. A batch of tasks
    takes one gather of images. Images come in the order of their labels, which no learner may rely on.

    Args:
        n_way: classes an episode.
        k_shot: support images a class; ``n_way`` numbers for unequal shots, given to the classes in a fresh
            order in each episode.
        n_query: query images a class; ``n_way`` numbers for imbalanced queries, ordered on their own.
        seed: of the episodes; give training and test different ones where they share a data set.
        query_dataset: where queries come from, to judge across domains: images of the same classes, by name,
            under other conditions. Only classes in both data sets are drawn. It must hold other
            images: those of a part of ``dataset`` could be support and query at once.

    Raises TypeError for what is no `FewShotDataset` or no whole number; ValueError for fewer classes than
    ways, and for a class, which is named, with fewer images than the largest shots plus the largest queries.

    Source: Vinyals et al. 2016, arXiv:1606.04080, section 4.1. Departs from it: unequal shots, two data sets.

    >>> from athena_meta import FewShotDataset
    >>> data = FewShotDataset(torch.rand(60, 8), torch.arange(60) % 6)
    >>> sampler = EpisodeSampler(data, n_way=5, k_shot=1, n_query=3, seed=0)
    >>> episodes = sampler.draw(7, 2)
    >>> episodes.support_x.shape, episodes.query_x.shape
    (torch.Size([2, 5, 8]), torch.Size([2, 15, 8]))
    >>> torch.equal(sampler.draw(8, 1).query_x, episodes.query_x[1:])
    True
    """

    def __init__(
        self,
        dataset: FewShotDataset,
        *,
        n_way: int = 5,
        k_shot: Count = 1,
        n_query: Count = 15,
        seed: int = 0,
        query_dataset: FewShotDataset | None = None,
    ) -> None:
        for name, given in (("dataset", dataset), ("query_dataset", query_dataset)):
            if not isinstance(given, FewShotDataset) and (given is not None or name == "dataset"):
                raise TypeError(
                    f"`{name}` must be a FewShotDataset; got {type(given).__name__}. Make one of the images "
                    "and their labels."
                )
        if query_dataset is dataset:  # no other domain: support and query must still have nothing in common
            query_dataset = None
        n_way = whole("n_way", n_way)
        self.dataset, self.n_way, self.seed = dataset, n_way, whole("seed", seed)
        self.query_dataset = dataset if query_dataset is None else query_dataset
        if n_way < 1:
            raise ValueError(f"`n_way` must be at least 1; got {n_way}.")
        self.shots = _per_class("k_shot", k_shot, n_way, least=1)
        self.queries = _per_class("n_query", n_query, n_way, least=0)
        if not self.queries.any():
            raise ValueError("`n_query` must leave a query to be judged by; got 0 for every class.")
        shared = set(self.query_dataset.classes)
        names = [name for name in dataset.classes if name in shared]
        if len(names) < n_way:
            raise ValueError(
                f"`n_way` must be at most the number of {'shared ' * (query_dataset is not None)}classes, "
                f"{len(names)}; got {n_way}. Lower it or give more classes."
            )
        most = int(self.shots.max()), int(self.queries.max())
        if query_dataset is None:
            self._pool = _Pool(dataset, names, sum(most), "`k_shot` plus `n_query`")
            self._query_pool = None
        else:
            self._pool = _Pool(dataset, names, most[0], "`k_shot`")
            self._query_pool = _Pool(query_dataset, names, most[1], "`n_query`")
        self._block: tuple[int, Selection] | None = None

    def draw(self, first: int, count: int) -> Episodes:
        """The episodes ``first`` to ``first + count - 1``, as one batch."""
        return self.fetch(self.select(first, count))

    def fetch(self, chosen: Selection) -> Episodes:
        """The images of a selection."""
        return fetched(self.dataset, self.query_dataset, chosen)

    def select(self, first: int, count: int) -> Selection:
        """Which classes and images the episodes ``first`` to ``first + count - 1`` are made of."""
        if first < 0 or count < 0:
            raise ValueError(f"`first` and `count` must not be negative; got {first} and {count}.")
        block, start = divmod(first, _BLOCK)
        if start + count > _BLOCK:
            return self._select(first, count)
        if self._block is None or self._block[0] != block:
            self._block = block, self._select(block * _BLOCK, _BLOCK)
        # Copies, so that changing an episode changes no other; of a few numbers NumPy makes them faster.
        kept = (part.numpy()[start : start + count].copy() for part in self._block[1])
        return Selection(*map(torch.from_numpy, kept))

    def _select(self, first: int, count: int) -> Selection:
        key = counter.episode_keys(self.seed, first, count)
        total = len(self._pool.classes)
        chosen = counter.draw(
            counter.keys(key, _CLASSES), np.full(count, total), self.n_way, smallest=total, largest=total
        )
        # The images of a way; those for queries come last, from a stream of their own if from other data.
        ways = counter.keys(key[:, None], np.arange(_IMAGES, _IMAGES + self.n_way))
        images = self._pool.draw(ways, chosen)
        k = int(self.shots.max())
        if self._query_pool is None:
            query_images = images[..., k:]
        else:
            query_images = self._query_pool.draw(counter.keys(ways, 0), chosen)
        support, support_y = self._arrange(images[..., :k], self.shots, counter.keys(key, _SHOTS))
        query, query_y = self._arrange(query_images, self.queries, counter.keys(key, _QUERIES))
        tensors = (self._pool.classes[chosen], support, support_y, query, query_y)
        return Selection(*(torch.from_numpy(np.array(part)) for part in tensors))

    def _arrange(
        self, images: NDArray[np.int64], counts: NDArray[np.int64], key: counter.Words
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Images ``(tasks, n_way, most)`` as ``(tasks, n)`` with their labels, of each class its count."""
        tasks, n_way, most = images.shape
        labels = np.broadcast_to(np.arange(n_way)[:, None], images.shape)
        if counts.min() == most:
            return images.reshape(tasks, n_way * most), labels.reshape(tasks, n_way * most)
        order = counter.draw(key, np.full(tasks, n_way), n_way, smallest=n_way, largest=n_way)
        kept = np.arange(most) < counts[order][..., None]
        total = int(counts.sum())
        return images[kept].reshape(tasks, total), labels[kept].reshape(tasks, total)


class _Pool:
    """Where images of the classes that may be drawn stand in a data set."""

    def __init__(self, dataset: FewShotDataset, names: Sequence[str], need: int, what: str) -> None:
        numbers = {name: number for number, name in enumerate(dataset.classes)}
        self.classes = np.array([numbers[name] for name in names])
        self.starts = dataset.starts.numpy()[self.classes]
        self.sizes = dataset.counts.numpy()[self.classes]
        self.order = dataset.order.numpy()
        self.need = need
        few = int(self.sizes.argmin())
        if self.sizes[few] < need:
            raise ValueError(
                f"{what} must be at most the images of every class; got {need}, class {names[few]!r} has "
                f"{self.sizes[few]}. Lower them, or leave the class out with `dataset.select`."
            )
        self.smallest, self.largest = int(self.sizes.min()), int(self.sizes.max())

    def draw(self, key: counter.Words, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Images of the chosen classes ``(tasks, n_way) -> (tasks, n_way, need)``."""
        sizes = self.sizes[chosen].reshape(-1)
        places = counter.draw(key.reshape(-1), sizes, self.need, smallest=self.smallest, largest=self.largest)
        return self.order[self.starts[chosen][..., None] + places.reshape(*chosen.shape, self.need)]


def _per_class(parameter: str, given: Count, n_way: int, *, least: int) -> NDArray[np.int64]:
    """The count of each class."""
    one = not isinstance(given, (str, Sequence, np.ndarray, Tensor)) or np.ndim(given) == 0
    counts = np.array([whole(parameter, given)] * n_way if one else list(given))  # type: ignore[arg-type]
    if len(counts) != n_way or counts.dtype.kind not in "iu":
        raise ValueError(
            f"`{parameter}` must be a whole number or one for each of {n_way} ways; got {given}."
        )
    if counts.min() < least:
        raise ValueError(f"`{parameter}` must be at least {least} for every class; got {given}.")
    return counts

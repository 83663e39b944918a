"""A source of episodes: numbered, so that any of them can be drawn again, anywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import copy
from typing import Any

import torch.distributed as dist
from torch.utils.data import IterableDataset, get_worker_info

from athena_meta._episodes import Episodes
from athena_meta._whole import whole


class EpisodeSource(ABC):
    """Episodes by number: episode ``i`` of a seed is the same in every process, drawn alone or in a batch.

    So a sampler is resumed by a number, and ranks and workers share one list of episodes without talking.

    Attributes:
        classification: whether labels are of classes, so that accuracy is the score; else it is the error.
        length: how many episodes there are; None: without end.

    >>> import torch
    >>> class Constants(EpisodeSource):
    ...     classification = False
    ...
    ...     def draw(self, first, count):
    ...         x = torch.arange(first, first + count).view(-1, 1, 1).float()
    ...         return Episodes(x, x, x, x)
    >>> [batch.support_x.flatten().tolist() for batch in Constants().batches(tasks=2, number=2)]
    [[0.0, 1.0], [2.0, 3.0]]
    """

    classification: bool = True
    length: int | None = None

    @abstractmethod
    def draw(self, first: int, count: int) -> Episodes:
        """The episodes ``first`` to ``first + count - 1``, as one batch."""

    def batches(
        self, tasks: int, *, number: int | None = None, rank: int | None = None, ranks: int | None = None
    ) -> EpisodeBatches:
        """Batches of so many tasks, without end, or ``number`` of them; resumable."""
        return EpisodeBatches(self, tasks, number=number, rank=rank, ranks=ranks)


class EpisodeBatches(IterableDataset[Episodes]):
    r"""Batches of an :class:`EpisodeSource`, in order; a rank and a worker each take their own.

    Batch :math:`b` of rank :math:`r` of :math:`R` holds the episodes
    :math:`(bR + r)\,T \ldots (bR + r + 1)\,T - 1`, with :math:`T` tasks a batch: all ranks together see what
    one process with :math:`RT` tasks sees. Iterate over it, or give it to
    ``DataLoader(batches, batch_size=None, num_workers=2)``, whose order is the same.

    Args:
        tasks: episodes a batch.
        number: of batches; None: without end, or to the end of a source that has one. The last batch may then
            be smaller, and not every rank may have one: give a number where ranks train in step.
        rank: which of the processes this is; None: what ``torch.distributed`` says when iteration starts.
        ranks: how many processes share the episodes; give both or neither.

    Left early, iteration goes on with the next batch; come to its end, it starts again with the first.
    ``state_dict()`` is the number of the next batch. Workers of a data loader are ahead of the training and
    count for themselves: keep the number of batches used and :meth:`seek` there before the loader is made.

    Raises ValueError for fewer than one task, a negative number, or a rank that does not exist.

    >>> from athena_meta import Sinusoids
    >>> batches = Sinusoids(k_shot=5, n_query=5, seed=0).batches(tasks=4, number=3)
    >>> len([*batches])
    3
    >>> first = next(iter(batches))
    >>> batches.state_dict()
    {'next': 1}
    """

    def __init__(
        self,
        source: EpisodeSource,
        tasks: int,
        *,
        number: int | None = None,
        rank: int | None = None,
        ranks: int | None = None,
    ) -> None:
        if whole("tasks", tasks) < 1:
            raise ValueError(f"`tasks` must be at least 1; got {tasks}. Give episodes a batch.")
        if number is not None and whole("number", number) < 0:
            raise ValueError(
                f"`number` must not be negative; got {number}. Give batches, or None for no end."
            )
        if (rank, ranks) != (None, None) and not 0 <= (-1 if rank is None else rank) < (ranks or 0):
            raise ValueError(
                f"`rank` must lie in [0, `ranks` - 1]; got rank {rank} of {ranks}. Give both or neither."
            )
        self.source, self.tasks, self.number, self.rank, self.ranks = source, tasks, number, rank, ranks
        self.next = 0

    def __iter__(self) -> Iterator[Episodes]:
        rank, ranks = self._place()
        worker = get_worker_info()
        # A worker moves no copy but this one: it starts where the loader was made, each time.
        place, skip, stride = (copy(self), worker.id, worker.num_workers) if worker else (self, 0, 1)
        place.next += skip
        while count := self._count(place.next, first := (place.next * ranks + rank) * self.tasks):
            place.next += stride
            yield self.source.draw(first, count)
        place.next = 0

    def _place(self) -> tuple[int, int]:
        if self.rank is not None and self.ranks is not None:
            return self.rank, self.ranks
        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        return 0, 1

    def _count(self, batch: int, first: int) -> int:
        """How many episodes this batch has; 0 after the last one."""
        if self.number is not None and batch >= self.number:
            return 0
        length = self.source.length
        return self.tasks if length is None else max(0, min(self.tasks, length - first))

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is spawned knows nothing of the process group of the one that it works for.
        rank, ranks = self._place()
        return self.__dict__ | ({"rank": rank, "ranks": ranks} if ranks > 1 else {})

    def seek(self, batch: int) -> None:
        """Go on with this batch. Raises ValueError for a negative one."""
        if whole("batch", batch) < 0:
            raise ValueError(f"`batch` must not be negative; got {batch}. The first is 0.")
        self.next = batch

    def state_dict(self) -> dict[str, int]:
        """The number of the next batch."""
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where the state was taken."""
        self.seek(state["next"])

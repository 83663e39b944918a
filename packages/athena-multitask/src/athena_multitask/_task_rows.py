"""Which rows of a batch belong to which task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class TaskRows:
    r"""Rows of a batch by the task that they belong to, of those tasks alone that have some.

    One gather sorts a batch for all tasks, so that its gradient is one scatter, not one a task.

    Args:
        task_ids: the place in ``tasks`` that each row belongs to, ``(B,)``, whole numbers.
        tasks: names of all tasks.
        chosen: the tasks to keep rows of; by default all.

    Attributes:
        names: the chosen tasks that have rows, in the order of ``tasks``.

    Raises ValueError for identifiers that are no vector of whole numbers, or out of range, and in use for a
    batch of another number of rows.

    >>> rows = TaskRows(torch.tensor([1, 0, 1]), ["near", "far"])
    >>> rows.split(torch.tensor([[10.0], [20.0], [30.0]]))["far"].flatten()
    tensor([10., 30.])
    >>> rows.indices["near"]
    tensor([1])
    """

    def __init__(self, task_ids: Tensor, tasks: Sequence[str], chosen: Sequence[str] | None = None) -> None:
        if task_ids.ndim != 1 or task_ids.is_floating_point() or task_ids.dtype == torch.bool:
            raise ValueError(
                "`task_ids` must be a whole number a row, (B,); got "
                f"{task_ids.dtype} of shape {tuple(task_ids.shape)}. Give `argmax(1)` of a one-hot."
            )
        # A comparison, not `bincount`: it counts what is out of range too, and the only wait is `tolist`.
        places = torch.arange(len(tasks), device=task_ids.device)
        counts: list[int] = (task_ids[:, None] == places).sum(0).tolist()
        if sum(counts) != len(task_ids):
            found = task_ids[(task_ids < 0) | (task_ids >= len(tasks))][0].item()
            raise ValueError(
                f"`task_ids` must lie in [0, {len(tasks)}), places in {list(tasks)}; got {found}. "
                "Count tasks from 0."
            )
        parts = dict(zip(tasks, task_ids.argsort(stable=True).split(counts), strict=True))
        kept = tasks if chosen is None else [name for name in tasks if name in chosen]
        #: Where the rows of each task are in the batch, ``(rows,)``; to choose targets by.
        self.indices: dict[str, Tensor] = {name: parts[name] for name in kept if len(parts[name])}
        self.names = tuple(self.indices)
        self._size = len(task_ids)
        self._order = torch.cat([task_ids.new_empty(0, dtype=torch.long), *self.indices.values()])

    def take(self, name: str, batch: Tensor) -> Tensor:
        """One task's rows of a tensor ``(B, ...)``."""
        self._check(batch)
        return batch[self.indices[name]]

    def split(self, batch: Any) -> dict[str, Any]:
        """Each task's rows of a tensor ``(B, ...)``, or of all in tuples, lists and mappings of such."""
        if isinstance(batch, Tensor):
            self._check(batch)
            counts = [len(rows) for rows in self.indices.values()]
            return dict(zip(self.names, batch[self._order].split(counts), strict=True)) if counts else {}
        if isinstance(batch, Mapping):
            parts = {key: self.split(value) for key, value in batch.items()}
            return {name: {key: part[name] for key, part in parts.items()} for name in self.names}
        if isinstance(batch, tuple | list):
            every = [self.split(value) for value in batch]
            return {name: [part[name] for part in every] for name in self.names}
        raise TypeError(
            "features must be tensors, or tuples, lists or mappings of them, to take rows from; "
            f"got {type(batch).__name__}. Leave `task_ids` out."
        )

    def _check(self, batch: Tensor) -> None:
        if len(batch) != self._size:
            raise ValueError(
                f"`task_ids` must be of each row of a batch of {len(batch)}; got {self._size}. Give all."
            )

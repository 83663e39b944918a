"""Hard parameter sharing: one encoder, and a head a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from athena_multitask._multi_task import MultiTask
from athena_multitask._task_rows import TaskRows


class MultiTaskModel(MultiTask):
    r"""One encoder that all tasks share, and a head for each.

    .. math:: \hat y_t = h_t(f(x))

    Args:
        encoder: any module; the heads take what it gives.
        heads: a module for each task, by name.

    Shape: rows are the first axis, ``(B, ...)``.

    Raises ValueError for no head, a name that a module cannot have; and in use for an unknown task.

    Source: Caruana 1997, Multitask learning. Departs from it: no.

    >>> import torch
    >>> model = MultiTaskModel(nn.Linear(4, 3), heads={"depth": nn.Linear(3, 1), "segment": nn.Linear(3, 5)})
    >>> {name: tuple(prediction.shape) for name, prediction in model(torch.ones(2, 4)).items()}
    {'depth': (2, 1), 'segment': (2, 5)}
    >>> {name: len(rows) for name, rows in model(torch.ones(3, 4), task_ids=torch.tensor([1, 0, 1])).items()}
    {'depth': 1, 'segment': 2}
    >>> [tuple(parameter.shape) for parameter in model.task_parameters("depth")]
    [(1, 3), (1,)]
    """

    def __init__(self, encoder: nn.Module, heads: Mapping[str, nn.Module] | nn.ModuleDict) -> None:
        super().__init__(heads)
        self.encoder = encoder

    def features(self, x: Any, tasks: Sequence[str], rows: TaskRows | None) -> dict[str, Any]:
        """What the encoder gives, of all rows, or of each task's."""
        return self.by_task(self.encoder(x), tasks, rows)

"""What every weighting of losses is: one loss from the losses of several tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class TaskWeighting(nn.Module, ABC):
    """One loss from the losses of several tasks (kind ``task-weighting``).

    A module: what is learned with the model is among its parameters (give them to the optimizer), what is
    remembered among its buffers.

    >>> import torch
    >>> class Sum(TaskWeighting):
    ...     def forward(self, losses):
    ...         return torch.stack(list(losses.values())).sum()
    >>> Sum()({"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
    tensor(3.)
    """

    @abstractmethod
    def forward(self, losses: dict[str, Tensor]) -> Tensor:
        """The loss to differentiate, from the tasks' scalar losses by name."""

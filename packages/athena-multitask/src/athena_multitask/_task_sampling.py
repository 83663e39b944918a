"""What every way of choosing the next task is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class TaskSampling(ABC):
    r"""Which task the next batch is of: :math:`t \sim p`.

    Draws are from an own generator on the CPU, one each, so that others' draws change nothing.

    Args:
        tasks: names, each once.
        seed: of the generator, whose state is in `state_dict`.

    Raises ValueError for no task, or a name that comes twice.

    >>> class Mostly(TaskSampling):
    ...     def probabilities(self):
    ...         return torch.tensor([0.9, 0.1], dtype=torch.float64)
    >>> mostly = Mostly(["a", "b"])
    >>> [mostly.sample() for _ in range(8)].count("a") > 4
    True
    """

    def __init__(self, tasks: Iterable[str], *, seed: int = 0) -> None:
        names = (tasks,) if isinstance(tasks, str) else tuple(tasks)
        if isinstance(tasks, str) or not names or len(set(names)) < len(names):
            raise ValueError(f'`tasks` must be names, each once; got {tasks!r}. Give ["depth", "segment"].')
        self.tasks: tuple[str, ...] = names
        self.generator = torch.Generator().manual_seed(seed)

    @abstractmethod
    def probabilities(self) -> Tensor:
        """The probability of each task now, ``(tasks,)``, in float64 on the CPU."""

    def sample(self) -> str:
        """The next task."""
        drawn = torch.rand((), generator=self.generator, dtype=torch.float64)
        place = int(torch.searchsorted(self.probabilities().cumsum(0), drawn, right=True))
        return self.tasks[min(place, len(self.tasks) - 1)]  # the sum of probabilities may round to below 1

    def update(self, losses: Mapping[str, float | Tensor]) -> None:
        """Take note of the losses of the tasks of a step; only some ways to sample do.

        Raises ValueError for an unknown task.
        """
        for name in losses:
            self._place(name)

    def state_dict(self) -> dict[str, Any]:
        """The names, and the generator's state."""
        return {"tasks": list(self.tasks), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; raises ValueError for that of other tasks."""
        if state["tasks"] != list(self.tasks):
            raise ValueError(
                f"the checkpoint must be of the tasks {list(self.tasks)}; got {state['tasks']}. "
                "Make the sampling with these, in this order."
            )
        self.generator.set_state(state["generator"].cpu())

    def _place(self, name: str) -> int:
        if name not in self.tasks:
            raise ValueError(
                f"`losses` must be of tasks of the sampling, {list(self.tasks)}; got {name!r}. "
                "Make it with all."
            )
        return self.tasks.index(name)


def checked_data_sizes(sizes: Mapping[str, int]) -> Tensor:
    """How many examples each task has, ``(tasks,)``, in float64.

    Raises ValueError for a task of none.

    >>> checked_data_sizes({"a": 3, "b": 1})
    tensor([3., 1.], dtype=torch.float64)
    """
    for name, size in sizes.items():
        if not 0 < size < float("inf"):
            raise ValueError(f"`sizes[{name!r}]` must be at least 1; got {size}. Leave the task out.")
    return torch.tensor(list(sizes.values()), dtype=torch.float64)

"""The state of an inner optimizer that goes on from task to task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from athena_meta._inner_update import InnerUpdate, Tensors, undotted


class PersistentState(nn.Module):
    """What an inner update's next task starts from, as buffers, and how many steps it has made.

    All tasks of a batch start from one state. Their last states are gathered by :meth:`add`, between
    :meth:`begin` and :meth:`commit`, which keeps their mean; a batch that is not committed leaves no trace.

    Raises ValueError for an update without a state.
    """

    steps: Tensor

    def __init__(self, inner: InnerUpdate, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        start = inner.start({name: value.detach() for name, value in parameters.items()})
        if not start:
            raise ValueError(
                "`persistent` must be False for an inner update without a state; got "
                f"{type(inner).__name__}. InnerAdam and InnerMomentum have one."
            )
        self.register_buffer("steps", torch.tensor(0))
        for name, value in start.items():
            self.register_buffer(undotted(name), value.clone())
        self.begin()

    def restored(self, start: Tensors) -> Tensors:
        """The state in the shape of a fresh one, whose tensors may have a first axis of tasks."""
        return {name: self.get_buffer(undotted(name)).expand_as(value) for name, value in start.items()}

    def begin(self) -> None:
        """Forget what was gathered."""
        self._sums: Tensors = {}
        self._count = 0

    def add(self, state: Tensors, *, count: int) -> None:
        """Gather the last states of some tasks, ``count`` of them."""
        for name, value in state.items():
            total = value.reshape(count, *self.get_buffer(undotted(name)).shape).sum(0)
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._count += count

    def commit(self, *, steps: int) -> None:
        """Keep the mean of what was gathered, after so many more steps."""
        for name, total in self._sums.items():
            self.get_buffer(undotted(name)).copy_(total / self._count)
        self.steps += steps
        self.begin()

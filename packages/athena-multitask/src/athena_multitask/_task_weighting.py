"""What every weighting of losses is: one loss from the losses of several tasks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from athena_multitask._balance_group import resolve_group

#: Which tasks the losses are of: all, or those at these places.
Rows = slice | list[int]
_MEANING = {
    "finite": ("finite", lambda value: math.isfinite(value)),
    "nonnegative": ("finite and at least 0", lambda value: 0 <= value < math.inf),
    "positive": ("finite and positive", lambda value: 0 < value < math.inf),
}


class TaskWeighting(nn.Module, ABC):
    r"""One loss from the losses of several tasks (kind ``task-weighting``).

    .. math:: L = \sum_i w_i L_i, \qquad w_i = \frac{\partial L}{\partial L_i}

    A module: what is learned with the model is among its parameters (give them to the optimizer), what is
    remembered among its buffers. Nothing is remembered in ``eval()`` or under ``no_grad``. Losses may lie on
    any one device; to move the module there too spares copies. Each call waits for the values of the losses,
    which are checked. Half precision is weighted in float32. In several processes of ``torch.distributed``,
    which must call alike, the mean over all of them is remembered.

    Args:
        tasks: names of all tasks that may occur.

    Attributes:
        takes_missing: losses of some tasks may be left out of a batch, which then count as constants of 0.
        domain: what losses must be: ``"finite"``, ``"nonnegative"`` or ``"positive"``.

    Shape: losses ``()``, the result ``()``.

    Raises ValueError for no task, a name that comes twice; and in use for a name that is unknown, or missing
    where this is not allowed, losses that are not scalar, lie on several devices or outside the domain;
    TypeError for losses that are no tensors.

    >>> import torch
    >>> class Sum(TaskWeighting):
    ...     def combine(self, losses, rows):
    ...         return losses.sum(), torch.ones_like(losses)
    >>> summed = Sum(["a", "b"])
    >>> summed({"b": torch.tensor(2.0), "a": torch.tensor(1.0)}), summed.weights
    (tensor(3.), tensor([1., 1.]))
    """

    takes_missing: ClassVar[bool] = True
    domain: ClassVar[Literal["finite", "nonnegative", "positive"]] = "finite"

    def __init__(self, tasks: Iterable[str]) -> None:
        super().__init__()
        self.tasks = _checked_tasks(tasks)
        self._last: tuple[Tensor, Rows] | None = None

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The loss to differentiate, from the tasks' scalar losses by name."""
        values, rows = self.stacked(losses)
        loss, weights = self.combine(values, rows)
        self._last = weights.detach(), rows
        return loss

    @abstractmethod
    def combine(self, losses: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """The loss, and its derivatives by the losses ``(present,)``, which are of ``self.tasks[rows]``."""

    @property
    def weights(self) -> Tensor | None:
        """Weights of all tasks in the last call, ``(tasks,)``, 0 where missing; None before the first."""
        if self._last is None:
            return None
        weights, rows = self._last
        every = weights.new_zeros(len(self.tasks))
        every[rows] = weights
        return every

    @property
    def learning(self) -> bool:
        """Whether a call is one of training, to be remembered."""
        return self.training and torch.is_grad_enabled()

    def averaged(self, values: Tensor) -> Tensor:
        """The mean over the processes of a distributed training, which then all remember the same."""
        group = resolve_group("world")
        if group is None:
            return values
        summed = values.clone()
        torch.distributed.all_reduce(summed, group=group)
        return summed / group.size()

    def stacked(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, Rows]:
        """Losses in the order of ``tasks``, ``(present,)``, and where there are some; checked."""
        present = [name for name in self.tasks if name in losses]
        if len(present) < len(losses) or not present:
            unknown = [name for name in losses if name not in self.tasks]
            found = f"got {unknown[0]!r}" if unknown else "got none"
            raise ValueError(
                f"`losses` must be of tasks of the weighting, {list(self.tasks)}; {found}. Make it with all."
            )
        rows: Rows = slice(None)
        if len(present) < len(self.tasks):
            rows = [row for row, name in enumerate(self.tasks) if name in losses]
            self._check_missing(present)
        values = _stack([losses[name] for name in present], present)
        self._check_domain(values, present)
        return values, rows

    def _check_missing(self, present: Sequence[str]) -> None:
        if not self.takes_missing:
            missing = [name for name in self.tasks if name not in present]
            raise ValueError(
                f"`losses` must be of every task, as {type(self).__name__} compares them; got none of "
                f"{missing}. Draw batches of all tasks, or take another weighting."
            )

    def _check_domain(self, values: Tensor, names: Sequence[str]) -> None:
        meaning, inside = _MEANING[self.domain]
        for name, value in zip(names, values.tolist(), strict=True):
            if not inside(value):
                raise ValueError(
                    f"`losses[{name!r}]` must be {meaning} for {type(self).__name__}; got {value}. "
                    "Leave the step out, or see what the loss is made of."
                )

    def get_extra_state(self) -> dict[str, Any]:
        """The names, so that a checkpoint of others is refused."""
        return {"tasks": list(self.tasks)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Raises ValueError for a checkpoint of other tasks, or of another order."""
        if state["tasks"] != list(self.tasks):
            raise ValueError(
                f"the checkpoint must be of the tasks {list(self.tasks)}; got {state['tasks']}. "
                "Make the weighting with these, in this order."
            )


def _checked_tasks(tasks: Iterable[str]) -> tuple[str, ...]:
    names = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    if isinstance(tasks, str) or not names or len(set(names)) < len(names):
        raise ValueError(f'`tasks` must be names, each once; got {tasks!r}. Give ["depth", "segment"].')
    return names


def _stack(losses: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    for name, loss in zip(names, losses, strict=True):
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"`losses[{name!r}]` must be a tensor; got a {type(loss).__name__}. Leave out `item()`."
            )
        if loss.ndim:
            raise ValueError(
                f"`losses[{name!r}]` must be a scalar; got the shape {tuple(loss.shape)}. Take its mean."
            )
        if loss.device != losses[0].device:
            raise ValueError(
                f"`losses[{name!r}]` must lie on {losses[0].device} as `losses[{names[0]!r}]` does; "
                f"got {loss.device}. Move it there."
            )
    values = torch.stack(tuple(losses))
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values

"""What every balancer is: one direction from the gradients of several tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from athena_multitask._gramian import gramian_of


class Balancer(ABC):
    r"""One direction from the gradients of several tasks (kind ``balancer``).

    Most methods choose weights from the Gramian :math:`G = J J^\top` of the task gradients alone, the rows of
    :math:`J`, and the direction is :math:`J^\top w`. Those that need the matrix itself override `direction`
    and set ``needs_matrix``.

    >>> from athena_multitask import Balancer
    >>> class Mean(Balancer):
    ...     def weights(self, gramian):
    ...         return gramian.new_full(gramian.shape[:1], 1 / len(gramian))
    >>> import torch
    >>> Mean().direction(torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
    tensor([1., 2.])
    """

    #: What this method claims of the laws that not all obey: ``"permutation"``, the direction does not depend
    #: on the order of the tasks; ``"scaling"``, gradients times a positive number give as many times the
    #: direction; ``"non-conflict"``, no task's gradient has a negative product with the direction;
    #: ``"stationary"``, the direction is zero where a positive combination of the gradients is.
    laws: ClassVar[frozenset[str]] = frozenset()
    #: Whether `direction` needs the gradients themselves; else their Gramian is enough.
    needs_matrix: ClassVar[bool] = False

    @abstractmethod
    def weights(self, gramian: Tensor) -> Tensor:
        """Weights of the tasks, ``(tasks,)``, from the Gramian ``(tasks, tasks)`` of their gradients."""

    def direction(self, matrix: Tensor) -> Tensor:
        """The direction, ``(parameters,)``, from the matrix ``(tasks, parameters)`` of gradients."""
        return self.weights(gramian_of(matrix)).to(matrix.dtype) @ matrix

    def name_rows(self, tasks: Sequence[str]) -> None:  # noqa: B027 (methods without memory do not mind)
        """Be told the tasks of the rows by `balance` before a step; what remembers rows refuses others."""

    def state_dict(self) -> dict[str, Any]:
        """What must be kept for going on as if never interrupted; empty for methods without memory."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (methods without memory keep it)
        """Take back what `state_dict` gave."""


def same_tasks(before: tuple[str, ...], tasks: Sequence[str]) -> tuple[str, ...]:
    """The tasks of the rows, which must be those of before if there were any.

    Raises ValueError for others, or another order.

    >>> same_tasks((), ["a", "b"])
    ('a', 'b')
    """
    if before and before != tuple(tasks):
        raise ValueError(
            f"`losses` must be of the tasks {list(before)} in this order, of which the method remembers "
            f"something; got {list(tasks)}. Give all of them each time."
        )
    return tuple(tasks)

"""Balancers and weightings behind one interface, for the recipes that compare them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from athena_core import AthenaError, components, create, load
from athena_multitask._balance import Balanced, balance
from athena_multitask._balancer import Balancer
from athena_multitask._task_weighting import TaskWeighting

KINDS = ("balancer", "task-weighting")


def method_names(chosen: Sequence[str]) -> tuple[str, ...]:
    """The methods that are chosen, by default all that are registered, balancers first.

    Raises AthenaError for a name that is neither a balancer nor a weighting, or comes twice.

    >>> method_names(("pcgrad", "static"))
    ('pcgrad', 'static')
    """
    known = [component.name for kind in KINDS for component in components(kind)]
    for name in chosen:
        if name not in known or list(chosen).count(name) > 1:
            raise AthenaError(
                f"`methods` must be names of balancers and weightings, each once; got {name!r}. "
                f"There are: {', '.join(known)}."
            )
    return tuple(chosen) or tuple(dict.fromkeys(known))


class Method:
    """A balancer or a weighting by its name, with all that a step of training asks of it.

    Args:
        name: of a component of either kind.
        tasks: names.
        shared: parameters that all tasks share.
        classification: tasks whose loss is a cross-entropy.
        seed: of a method that draws.

    >>> import torch
    >>> weight = nn.Parameter(torch.ones(2))
    >>> method = Method("mgda", ["a", "b"], shared=[weight])
    >>> method.backward(dict(zip("ab", weight * torch.tensor([1.0, 2.0]), strict=True))).tasks
    ('a', 'b')
    >>> weight.grad
    tensor([0.8000, 0.4000])
    """

    def __init__(
        self,
        name: str,
        tasks: Sequence[str],
        *,
        shared: Iterable[Tensor],
        classification: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.shared = list(shared)
        kind = KINDS[0] if name in {component.name for component in components(KINDS[0])} else KINDS[1]
        offered = {"shared": self.shared, "classification": classification, "seed": seed}
        taken = inspect.signature(load(kind, name)).parameters
        given = {option: value for option, value in offered.items() if option in taken}
        positional = [] if kind == KINDS[0] else [tasks]
        self.part: Balancer | TaskWeighting = create(kind, name, *positional, **given)
        if isinstance(self.part, TaskWeighting):
            self.part.to(self.shared[0].device)
        #: What the method learns with the model.
        self.parameters = list(self.part.parameters()) if isinstance(self.part, nn.Module) else []
        self.needs_update = callable(getattr(self.part, "update", None))

    def backward(self, losses: Mapping[str, Tensor]) -> Balanced | None:
        """Add to ``.grad``; what a balancer found on its way."""
        if isinstance(self.part, Balancer):
            return balance(losses, shared=self.shared, method=self.part)
        self.part(losses).backward()
        return None

    def update(self, losses: Mapping[str, Tensor]) -> None:
        """Show a method that asks for it the same batch's losses after the optimizer's step."""
        if self.needs_update:
            self.part.update(losses)  # type: ignore[operator,union-attr]

    def end_epoch(self) -> None:
        """Tell a method that counts epochs that one has ended."""
        if callable(end := getattr(self.part, "end_epoch", None)):
            end()

    def state_dict(self) -> dict[str, Any]:
        """The method's own."""
        return self.part.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.part.load_state_dict(state)

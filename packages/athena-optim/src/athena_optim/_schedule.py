"""Schedules that are a pure function of the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class FactorSchedule(LRScheduler):
    r"""Learning rates that are a function of the step alone: :math:`\eta_t = \eta\, f(t)`.

    :math:`t` counts the optimizer's steps from 0, and :math:`\eta` is each group's rate when the
    schedule was made. Because nothing else enters, the rate at any step is the same after any
    resume. `load_state_dict` puts that rate into the optimizer at once; torch's own schedulers leave
    there what their constructor wrote, step 0's, until the next ``step()``. A learning rate that is
    a tensor is filled, never replaced, so captured and compiled steps see it.

    Args:
        optimizer: whose groups' ``lr`` is set.
        factor: :math:`f`, a function of the step. It is configuration and not in the state dict.

    Source: Athena's own; the interface is `torch.optim.lr_scheduler.LRScheduler`. Departs from it:
    as said for `load_state_dict`.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    >>> schedule = FactorSchedule(optimizer, lambda step: 1 / (1 + step))
    >>> optimizer.step()
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.25]
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        self.factor = factor
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Rates of all groups at the present step."""
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The step and the base rates; without the optimizer and the factor."""
        return {name: value for name, value in super().state_dict().items() if name != "factor"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved step, and put its rates into the optimizer."""
        super().load_state_dict(state_dict)
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

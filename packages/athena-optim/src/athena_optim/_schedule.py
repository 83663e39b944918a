"""Schedules that are a pure function of the step."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, TypeVar

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Rate = TypeVar("Rate", float, Tensor)
_SAVED = ("last_epoch", "base_lrs", "_last_lr", "_step_count")


def put(old: float | Tensor, new: float | Tensor) -> float | Tensor:
    """What a group's option becomes: ``old`` filled with ``new`` where it is a tensor, else ``new``."""
    return old.fill_(new) if isinstance(old, Tensor) else new


def _copied(rate: Rate) -> Rate:
    return rate.clone() if isinstance(rate, Tensor) else rate


class FactorSchedule(LRScheduler):
    r"""Learning rates that are a function of the step alone: :math:`\eta_t = \eta\, f(t)`.

    :math:`t` counts the calls of ``step()``, and :math:`\eta` is each group's rate when the schedule
    was made (or what an earlier schedule left as ``initial_lr``). Because nothing else enters, the
    rate at any step is the same after any resume, whether the optimizer is loaded before or after the
    schedule, and whether the schedule is made before or after the optimizer is loaded. A learning rate
    that is a tensor is filled, never replaced, so captured and compiled steps see it.

    A group that the optimizer gets later keeps its own rate until the next ``step()``, which takes that
    rate as its :math:`\eta`. Before loading, the optimizer must have all the groups that it had.

    Args:
        optimizer: whose groups' ``lr`` is set.
        factor: :math:`f`, a function of the step, 0 first: any of this package's ``*_factor`` with its
            options, or one of your own. It is configuration and not in the state dict.

    Raises TypeError if ``factor`` cannot be called; ValueError if it returns a number that is negative,
    NaN or infinite, and from `load_state_dict`, before anything is changed, for the state of another
    number of groups.
    Source: Athena's own; the interface is `torch.optim.lr_scheduler.LRScheduler`. Departs from it:
    `load_state_dict` puts the saved step's rates into the optimizer at once, where torch's schedulers
    leave what their constructor wrote, step 0's; late groups, which make torch's raise.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    >>> schedule = FactorSchedule(optimizer, lambda step: 1 / (1 + step))
    >>> optimizer.step()
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.25]
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        if not callable(factor):
            raise TypeError(
                f"`factor` must be a function of the step; got {factor!r}. Pass one, such as a `*_factor`."
            )
        self.factor = factor
        self._share(0)  # refused options leave the optimizer as it was
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Rates of all groups at the present step."""
        share = self._share(self.last_epoch)
        self._take_late_groups()
        return [base * share for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The step and the groups' rates; without the optimizer and the factor."""
        self._take_late_groups()
        return {name: getattr(self, name) for name in _SAVED}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved step, and put its rates into the optimizer."""
        if missing := [name for name in _SAVED if name not in state_dict]:
            raise ValueError(
                f"`state_dict` must hold {list(_SAVED)}; {missing} are missing. Pass what a schedule's "
                "`state_dict()` returned."
            )
        saved, present = len(state_dict["base_lrs"]), len(self.optimizer.param_groups)
        if saved != present:
            raise ValueError(
                f"`state_dict` must be of as many groups as the optimizer has, {present}; got {saved}. "
                "Give the optimizer the same groups before loading."
            )
        self._share(state_dict["last_epoch"])
        super().load_state_dict({name: state_dict[name] for name in _SAVED})
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = put(group["lr"], lr)

    def _share(self, step: int) -> float:
        share = self.factor(step)
        if not (share >= 0 and isfinite(share)):
            raise ValueError(f"`factor` must return a finite number of at least 0; got {share} at {step=}.")
        return share

    def _take_late_groups(self) -> None:
        late = self.optimizer.param_groups[len(self.base_lrs) :]
        rates = [_copied(group.setdefault("initial_lr", _copied(group["lr"]))) for group in late]
        self.base_lrs = [*self.base_lrs, *rates]

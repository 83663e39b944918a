"""Sparsity that follows any learning-rate schedule, turned over."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import athena_core
from athena_compress._sparsity_schedule import SparsitySchedule


class ComponentSchedule(SparsitySchedule):
    r"""As the learning rate of a schedule falls from its peak, sparsity rises.

    .. math:: r(t) = \frac{\eta_p - \min_{p \le u \le t} \eta_u}{\eta_p - \min_{p \le u \le n} \eta_u}

    where :math:`\eta_t` are the rates of the schedule from step 0 to ``steps``, and :math:`p` is the first
    step at the highest of them: during a warm-up nothing is pruned. For a schedule that falls from its
    first step on to 0, :math:`s_t = s_f\,(1 - \eta_t / \eta_0)`. Where the rate rises again, as
    after a restart, the share stays: what is pruned does not come back.

    Args:
        final: share pruned in the end, in [0, 1).
        schedule: the name of a component of the kind ``schedule``, such as ``"warmup-cosine"`` of
            athena-optim, or a function that makes a scheduler of torch from an optimizer.
        steps, begin, initial, every: as in `SparsitySchedule`. A component that has an option
            ``total_steps`` gets ``steps``.
        options: further options of the component.

    Raises ValueError if the rates do not fall within ``steps``; what `athena_core.create` raises for a
    component that is unknown, lacks a package, or does not take the options; and as `SparsitySchedule`.
    Source: Athena's own. Departs from it: no.

    >>> def cosine(optimizer):
    ...     return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    >>> schedule = ComponentSchedule(0.8, cosine, steps=4)
    >>> [round(schedule(step), 4) for step in range(6)]
    [0.0, 0.1172, 0.4, 0.6828, 0.8, 0.8]
    """

    def __init__(
        self,
        final: float,
        schedule: str | Callable[..., LRScheduler],
        *,
        steps: int,
        begin: int = 0,
        initial: float = 0.0,
        every: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(final, steps=steps, begin=begin, initial=initial, every=every)
        self.schedule = schedule
        self.options = options
        if steps:
            _ = self._rises  # wrong options are refused here, not in the middle of training

    def rise(self, progress: float) -> float:
        return self._rises[round(progress * self.steps)]

    @cached_property
    def _rises(self) -> list[float]:
        """How far the rates have fallen from their peak, step by step."""
        rates = self._rates()
        peak = rates.index(max(rates))
        fall = rates[peak] - min(rates[peak:])
        if not fall > 0:
            raise ValueError(
                f"`schedule` must fall from its highest rate within {self.steps} `steps`; got {rates[peak]} "
                "at the last of them. Pass a schedule that falls, or as many steps as it has."
            )
        falls = [(rates[peak] - rate) / fall for rate in rates[peak:]]
        return [*[0.0] * peak, *accumulate(falls, max)]

    def _rates(self) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = self._make(optimizer)
        rates = [float(optimizer.param_groups[0]["lr"])]
        for _ in range(self.steps):
            optimizer.step()
            scheduler.step()
            rates.append(float(optimizer.param_groups[0]["lr"]))
        return rates

    def _make(self, optimizer: Optimizer) -> LRScheduler:
        if not isinstance(self.schedule, str):
            return self.schedule(optimizer, **self.options)
        options = dict(self.options)
        if "total_steps" in inspect.signature(athena_core.load("schedule", self.schedule)).parameters:
            options.setdefault("total_steps", self.steps)
        return athena_core.create("schedule", self.schedule, optimizer, **options)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, schedule={self.schedule!r})"

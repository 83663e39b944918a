"""Linear warm-up, then the full rate."""

from __future__ import annotations

from functools import partial

from torch.optim import Optimizer

from athena_optim._phases import warmup_then_hold
from athena_optim._schedule import FactorSchedule


def warmup_constant_factor(step: int, *, warmup_steps: int | float, total_steps: int | None = None) -> float:
    r"""Share of the full learning rate at ``step``, the number of steps already taken.

    .. math:: f(t) = \min\!\Big(1, \frac{t+1}{w+1}\Big)

    with :math:`w` = ``warmup_steps``: an int is steps, a float a share of ``total_steps`` (1 is one
    step, 1.0 all of them), which only a share needs.

    Raises ValueError or TypeError unless ``step`` and ``warmup_steps`` are whole and at least 0, or
    the latter is a share in [0, 1] of a given total.
    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2 (gradual warm-up). Departs from it: the
    warm-up starts above 0 and not at the rate of a small batch.

    >>> [warmup_constant_factor(step, warmup_steps=3) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return warmup_then_hold(step, warmup_steps, total_steps)[0]


def warmup_constant(
    optimizer: Optimizer, *, warmup_steps: int | float, total_steps: int | None = None
) -> FactorSchedule:
    """Schedule every group's learning rate by `warmup_constant_factor`.

    Call ``step()`` after each ``optimizer.step()``. Raises as `warmup_constant_factor` does.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    >>> warmup_constant(optimizer, warmup_steps=3).get_last_lr()
    [0.1]
    """
    factor = partial(warmup_constant_factor, warmup_steps=warmup_steps, total_steps=total_steps)
    return FactorSchedule(optimizer, factor)

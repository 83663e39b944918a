"""Linear warm-up, then the inverse square root of the step."""

from __future__ import annotations

from functools import partial
from math import sqrt

from torch.optim import Optimizer

from athena_optim._phases import warmup_then_hold
from athena_optim._schedule import FactorSchedule


def warmup_inverse_sqrt_factor(
    step: int, *, warmup_steps: int | float, total_steps: int | None = None
) -> float:
    r"""Share of the full learning rate at ``step``, the number of steps already taken.

    .. math:: f(t) = \min\!\Big(\frac{t+1}{w+1}, \sqrt{\frac{w+1}{t+1}}\Big)

    with :math:`w` = ``warmup_steps``: an int is steps, a float a share of ``total_steps`` (1 is one
    step, 1.0 all of them), which only a share needs. The longer the warm-up, the slower the fall.

    Raises ValueError or TypeError unless ``step`` and ``warmup_steps`` are whole and at least 0, or
    the latter is a share in [0, 1] of a given total.
    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 3, :math:`d^{-1/2} \min(n^{-1/2},
    n\,k^{-3/2})` for step :math:`n = t+1` counted from 1 and :math:`k = w+1`, divided by its largest
    value :math:`(d\,k)^{-1/2}`. Departs from it: in that division, so that the optimizer's rate is the
    largest one. Raffel et al. 2020, arXiv:1910.10683, section 3.1.2, fall alike from :math:`k` on, and
    hold the rate before it instead of warming up.

    >>> [warmup_inverse_sqrt_factor(step, warmup_steps=3) for step in (0, 1, 2, 3, 15, 63)]
    [0.25, 0.5, 0.75, 1.0, 0.5, 0.25]
    """
    share, warmup = warmup_then_hold(step, warmup_steps, total_steps)
    return min(share, sqrt((warmup + 1) / (step + 1)))


def warmup_inverse_sqrt(
    optimizer: Optimizer, *, warmup_steps: int | float, total_steps: int | None = None
) -> FactorSchedule:
    """Schedule every group's learning rate by `warmup_inverse_sqrt_factor`.

    Call ``step()`` after each ``optimizer.step()``. Raises as `warmup_inverse_sqrt_factor` does.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    >>> warmup_inverse_sqrt(optimizer, warmup_steps=3).get_last_lr()
    [0.1]
    """
    factor = partial(warmup_inverse_sqrt_factor, warmup_steps=warmup_steps, total_steps=total_steps)
    return FactorSchedule(optimizer, factor)

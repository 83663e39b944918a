"""Linear warm-up, then a power of the share of the run that is left."""

from __future__ import annotations

from functools import partial
from math import isfinite

from torch.optim import Optimizer

from athena_optim._phases import check_number, warmup_then_fall
from athena_optim._schedule import FactorSchedule


def warmup_polynomial_factor(
    step: int, *, warmup_steps: int | float, total_steps: int, power: float = 2.0, min_ratio: float = 0.0
) -> float:
    r"""Share of the full learning rate at ``step``, the number of steps already taken.

    .. math::
        f(t) = \begin{cases}
            (t+1)/(w+1) & t < w \\
            r + (1-r)\,\big(\tfrac{T-t}{T-w}\big)^p & w \le t < T \\
            r & t \ge T
        \end{cases}

    with :math:`w` = ``warmup_steps``, :math:`T` = ``total_steps``, :math:`p` = ``power``, :math:`r` =
    ``min_ratio``. An int ``warmup_steps`` is steps, a float a share of ``total_steps``, rounded down (1
    is one step, 1.0 all of them). ``power=1`` is `warmup_linear_factor`.

    Raises ValueError unless ``power`` is finite and above 0, the warm-up lies within ``total_steps``,
    ``total_steps >= 1``, ``0 <= min_ratio <= 1`` and ``step >= 0``; TypeError for steps that are not
    whole, and for options that are no numbers.
    Source: Chen et al. 2018, arXiv:1606.00915, the "poly" policy, with power 0.9. Departs
    from it: the warm-up, and ``min_ratio``.

    >>> [warmup_polynomial_factor(step, warmup_steps=3, total_steps=7) for step in range(3, 8)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0]
    """
    check_number("power", power)
    if not (power > 0 and isfinite(power)):
        raise ValueError(f"`power` must be finite and above 0; got {power}. A straight line has power 1.")

    def fall(left: float, ratio: float) -> float:
        return ratio + (1 - ratio) * left**power

    return warmup_then_fall(
        step, fall, warmup_steps=warmup_steps, total_steps=total_steps, min_ratio=min_ratio
    )


def warmup_polynomial(
    optimizer: Optimizer,
    *,
    warmup_steps: int | float,
    total_steps: int,
    power: float = 2.0,
    min_ratio: float = 0.0,
) -> FactorSchedule:
    """Schedule every group's learning rate by `warmup_polynomial_factor`.

    Call ``step()`` after each ``optimizer.step()``. Past ``total_steps`` the rate stays at
    ``min_ratio`` of the full one. Raises as `warmup_polynomial_factor` does.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    >>> warmup_polynomial(optimizer, warmup_steps=3, total_steps=100).get_last_lr()
    [0.1]
    """
    options = {"warmup_steps": warmup_steps, "total_steps": total_steps, "min_ratio": min_ratio}
    return FactorSchedule(optimizer, partial(warmup_polynomial_factor, power=power, **options))

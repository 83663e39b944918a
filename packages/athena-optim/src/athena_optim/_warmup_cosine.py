"""Linear warm-up, then half a cosine down."""

from __future__ import annotations

from functools import partial
from math import pi, sin

from torch.optim import Optimizer

from athena_optim._phases import warmup_then_fall
from athena_optim._schedule import FactorSchedule


def half_cosine(left: float, ratio: float) -> float:
    r"""From 1 to ``ratio`` as ``left`` goes from 1 to 0.

    :math:`\sin^2(\pi l/2) = \tfrac12(1 + \cos(\pi(1-l)))`, whose right side rounds to 0 while a share
    :math:`l` of 1e-9 is still left.

    >>> half_cosine(1e-9, 0.0) > 0
    True
    """
    return ratio + (1 - ratio) * sin(pi / 2 * left) ** 2


def warmup_cosine_factor(
    step: int, *, warmup_steps: int | float, total_steps: int, min_ratio: float = 0.0
) -> float:
    r"""Share of the full learning rate at ``step``, the number of steps already taken.

    .. math::
        f(t) = \begin{cases}
            (t+1)/(w+1) & t < w \\
            r + (1-r)\,\tfrac12\big(1 + \cos(\pi\,\tfrac{t-w}{T-w})\big) & w \le t < T \\
            r & t \ge T
        \end{cases}

    with :math:`w` = ``warmup_steps``, :math:`T` = ``total_steps``, :math:`r` = ``min_ratio``. An int
    ``warmup_steps`` is steps, a float a share of ``total_steps``, rounded down (1 is one step, 1.0 all
    of them). All :math:`T` steps of a run have a rate above 0: neither the first nor the last is wasted.

    Raises ValueError unless the warm-up lies within ``total_steps``, ``total_steps >= 1``,
    ``0 <= min_ratio <= 1`` and ``step >= 0``; TypeError for steps that are not whole.
    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2 (gradual warm-up); Loshchilov and Hutter
    2017, arXiv:1608.03983, equation 5 without restarts. Departs from it: the warm-up starts above 0.

    >>> [round(warmup_cosine_factor(step, warmup_steps=3, total_steps=7), 3) for step in range(8)]
    [0.25, 0.5, 0.75, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    return warmup_then_fall(
        step, half_cosine, warmup_steps=warmup_steps, total_steps=total_steps, min_ratio=min_ratio
    )


def warmup_cosine(
    optimizer: Optimizer, *, warmup_steps: int | float, total_steps: int, min_ratio: float = 0.0
) -> FactorSchedule:
    """Schedule every group's learning rate by `warmup_cosine_factor`.

    Call ``step()`` after each ``optimizer.step()``. Past ``total_steps`` the rate stays at
    ``min_ratio`` of the full one. Raises as `warmup_cosine_factor` does.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    >>> schedule = warmup_cosine(optimizer, warmup_steps=3, total_steps=100)
    >>> optimizer.param_groups[0]["lr"]
    0.1
    """
    factor = partial(
        warmup_cosine_factor, warmup_steps=warmup_steps, total_steps=total_steps, min_ratio=min_ratio
    )
    return FactorSchedule(optimizer, factor)

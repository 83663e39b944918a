"""Linear warm-up, then a straight line down."""

from __future__ import annotations

from functools import partial

from torch.optim import Optimizer

from athena_optim._phases import warmup_then_fall
from athena_optim._schedule import FactorSchedule


def straight(left: float, ratio: float) -> float:
    """From 1 to ``ratio`` as ``left`` goes from 1 to 0.

    >>> straight(0.5, 0.5)
    0.75
    """
    return ratio + (1 - ratio) * left


def warmup_linear_factor(
    step: int, *, warmup_steps: int | float, total_steps: int, min_ratio: float = 0.0
) -> float:
    r"""Share of the full learning rate at ``step``, the number of steps already taken.

    .. math::
        f(t) = \begin{cases}
            (t+1)/(w+1) & t < w \\
            r + (1-r)\,\tfrac{T-t}{T-w} & w \le t < T \\
            r & t \ge T
        \end{cases}

    with :math:`w` = ``warmup_steps``, :math:`T` = ``total_steps``, :math:`r` = ``min_ratio``. An int
    ``warmup_steps`` is steps, a float a share of ``total_steps``, rounded down (1 is one step, 1.0 all
    of them). All :math:`T` steps of a run have a rate above 0.

    Raises ValueError unless the warm-up lies within ``total_steps``, ``total_steps >= 1``,
    ``0 <= min_ratio <= 1`` and ``step >= 0``; TypeError for steps that are not whole.
    Source: Devlin et al. 2019, arXiv:1810.04805, appendix A.2 (warm-up, then linear decay). Departs
    from it: the warm-up starts above 0; ``min_ratio`` is ours; their code draws the line from step 0,
    so that its rate drops by :math:`w/T` where the warm-up ends, and this one's does not.

    >>> [warmup_linear_factor(step, warmup_steps=3, total_steps=7) for step in range(8)]
    [0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return warmup_then_fall(
        step, straight, warmup_steps=warmup_steps, total_steps=total_steps, min_ratio=min_ratio
    )


def warmup_linear(
    optimizer: Optimizer, *, warmup_steps: int | float, total_steps: int, min_ratio: float = 0.0
) -> FactorSchedule:
    """Schedule every group's learning rate by `warmup_linear_factor`.

    Call ``step()`` after each ``optimizer.step()``. Past ``total_steps`` the rate stays at
    ``min_ratio`` of the full one. Raises as `warmup_linear_factor` does.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    >>> warmup_linear(optimizer, warmup_steps=3, total_steps=100).get_last_lr()
    [0.1]
    """
    factor = partial(
        warmup_linear_factor, warmup_steps=warmup_steps, total_steps=total_steps, min_ratio=min_ratio
    )
    return FactorSchedule(optimizer, factor)

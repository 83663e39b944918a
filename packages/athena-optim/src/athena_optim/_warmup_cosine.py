"""Linear warm-up, then half a cosine down."""

from __future__ import annotations

from functools import partial
from math import cos, pi

from torch.optim import Optimizer

from athena_optim._schedule import FactorSchedule


def _steps(warmup_steps: int | float, total_steps: int, min_ratio: float) -> int:
    """The warm-up's length in steps, all three options checked."""
    if total_steps < 1:
        raise ValueError(f"`total_steps` must be at least 1; got {total_steps}.")
    if not 0 <= min_ratio <= 1:
        raise ValueError(f"`min_ratio` must lie in [0, 1]; got {min_ratio}.")
    if isinstance(warmup_steps, float) and not 0 <= warmup_steps <= 1:
        raise ValueError(
            f"`warmup_steps` as a share must lie in [0, 1]; got {warmup_steps}. Give steps as an int."
        )
    steps = int(warmup_steps * total_steps) if isinstance(warmup_steps, float) else warmup_steps
    if not 0 <= steps <= total_steps:
        raise ValueError(
            f"`warmup_steps` must lie in [0, total_steps = {total_steps}]; got {steps}. "
            "Shorten the warm-up, lengthen the run, or give a share of it, such as 0.1."
        )
    return steps


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

    with :math:`w` = ``warmup_steps``, :math:`T` = ``total_steps``, :math:`r` = ``min_ratio``. A float
    ``warmup_steps`` is a share of ``total_steps``, rounded down to a step. All :math:`T` steps of a run
    have a rate above 0: neither the first nor the last is wasted.

    Raises ValueError unless the warm-up lies within ``total_steps``, ``total_steps >= 1``,
    ``0 <= min_ratio <= 1`` and ``step >= 0``.
    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2 (gradual warm-up); Loshchilov and Hutter
    2017, arXiv:1608.03983, equation 5 without restarts. Departs from it: the warm-up starts above 0.

    >>> [round(warmup_cosine_factor(step, warmup_steps=3, total_steps=7), 3) for step in range(8)]
    [0.25, 0.5, 0.75, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    warmup_steps = _steps(warmup_steps, total_steps, min_ratio)
    if step < 0:
        raise ValueError(f"`step` must be at least 0; got {step}.")
    if step >= total_steps:
        return min_ratio
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + cos(pi * progress))


def warmup_cosine(
    optimizer: Optimizer, *, warmup_steps: int | float, total_steps: int, min_ratio: float = 0.0
) -> FactorSchedule:
    """Schedule every group's learning rate by `warmup_cosine_factor`.

    Call ``step()`` after each ``optimizer.step()``. Past ``total_steps`` the rate stays at
    ``min_ratio`` of the full one. Raises ValueError as `warmup_cosine_factor` does.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    >>> schedule = warmup_cosine(optimizer, warmup_steps=3, total_steps=100)
    >>> optimizer.param_groups[0]["lr"]
    0.1
    """
    warmup_steps = _steps(warmup_steps, total_steps, min_ratio)
    factor = partial(
        warmup_cosine_factor, warmup_steps=warmup_steps, total_steps=total_steps, min_ratio=min_ratio
    )
    return FactorSchedule(optimizer, factor)

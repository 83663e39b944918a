"""WSD: warm-up, stable, decay."""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import Literal, get_args

from torch.optim import Optimizer

from athena_optim._phases import check_ratio, warmup_then_fall
from athena_optim._schedule import FactorSchedule
from athena_optim._warmup_cosine import half_cosine
from athena_optim._warmup_linear import straight

Decay = Literal["1-sqrt", "linear", "cosine", "exponential"]


def _one_minus_sqrt(left: float, ratio: float) -> float:
    return ratio + (1 - ratio) * left / (1 + sqrt(1 - left))  # 1 - sqrt(1 - left), exact as left nears 0


def _exponential(left: float, ratio: float) -> float:
    return ratio ** (1 - left)


_FALLS = {
    "1-sqrt": _one_minus_sqrt,
    "linear": straight,
    "cosine": half_cosine,
    "exponential": _exponential,
}


def wsd_factor(
    step: int,
    *,
    warmup_steps: int | float,
    total_steps: int,
    decay_steps: int | float = 0.1,
    decay: Decay = "1-sqrt",
    min_ratio: float = 0.0,
) -> float:
    r"""Share of the full learning rate at ``step``, the number of steps already taken.

    .. math::
        f(t) = \begin{cases}
            (t+1)/(w+1) & t < w \\
            1 & w \le t < T - d \\
            g\big(\tfrac{t - (T-d)}{d}\big) & T - d \le t < T \\
            r & t \ge T
        \end{cases}

    with :math:`w` = ``warmup_steps``, :math:`T` = ``total_steps``, :math:`d` = ``decay_steps``, :math:`r`
    = ``min_ratio``. An int of steps is steps, a float a share of ``total_steps``, rounded down (1 is one
    step, 1.0 all of them). :math:`g` goes from 1 to :math:`r` by ``decay``:

    - ``"1-sqrt"``: :math:`r + (1-r)(1 - \sqrt x)`
    - ``"linear"``: :math:`r + (1-r)(1 - x)`
    - ``"cosine"``: :math:`r + (1-r)\tfrac12(1 + \cos \pi x)`
    - ``"exponential"``: :math:`r^x`, which halves every :math:`d \ln 2 / \ln(1/r)` steps and needs
      :math:`r > 0`

    Until the decay begins nothing depends on ``total_steps`` if the warm-up is given in steps, so a run
    that is resumed before then with a larger total is the longer run from the start.

    Raises ValueError unless warm-up and decay fit into ``total_steps``, ``total_steps >= 1``, ``decay``
    is one of the four, ``0 <= min_ratio <= 1`` and ``step >= 0``; TypeError for steps that are not whole,
    and for a ``min_ratio`` that is no number.
    Source: Hu et al. 2024, arXiv:2404.06395, equation 1 (any falling g; a tenth of the run for it, and
    exponential in their own training); Haegele et al. 2024, arXiv:2405.18392 (1-sqrt, better there than
    linear). Departs from it: the warm-up starts above 0; the exponential's half-life follows from its
    end, ``min_ratio``.

    >>> options = dict(warmup_steps=1, total_steps=8, decay_steps=4)
    >>> [round(wsd_factor(step, **options), 3) for step in range(9)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.293, 0.134, 0.0]
    """
    if decay not in _FALLS:
        raise ValueError(f"`decay` must be one of {list(get_args(Decay))}; got {decay!r}.")
    if decay_steps is None:  # to the phases, all that the warm-up leaves
        raise TypeError(
            "`decay_steps` must be a number of steps or a share of the run; got None. "
            "Leave it out for a tenth of it."
        )
    check_ratio("min_ratio", min_ratio)
    if decay == "exponential" and not min_ratio > 0:
        raise ValueError(
            f"`min_ratio` must be above 0 where `decay` is 'exponential'; got {min_ratio}. "
            "Pass one, such as 0.1."
        )
    return warmup_then_fall(
        step,
        _FALLS[decay],
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        min_ratio=min_ratio,
        decay_steps=decay_steps,
    )


def wsd(
    optimizer: Optimizer,
    *,
    warmup_steps: int | float,
    total_steps: int,
    decay_steps: int | float = 0.1,
    decay: Decay = "1-sqrt",
    min_ratio: float = 0.0,
) -> FactorSchedule:
    """Schedule every group's learning rate by `wsd_factor`.

    Call ``step()`` after each ``optimizer.step()``. Past ``total_steps`` the rate stays at
    ``min_ratio`` of the full one. Raises as `wsd_factor` does.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    >>> wsd(optimizer, warmup_steps=3, total_steps=100).get_last_lr()
    [0.1]
    """
    factor = partial(
        wsd_factor,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        decay_steps=decay_steps,
        decay=decay,
        min_ratio=min_ratio,
    )
    return FactorSchedule(optimizer, factor)

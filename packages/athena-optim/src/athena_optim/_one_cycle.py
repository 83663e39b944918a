"""One cycle of the learning rate, up and down, and of the momentum, down and up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import cos, pi
from numbers import Real
from typing import Any, Literal, get_args

from torch.optim import Optimizer

from athena_optim._phases import check_ratio, lengths, whole
from athena_optim._schedule import FactorSchedule, put

Shape = Literal["cosine", "linear"]


def _cycle(
    step: int,
    levels: Sequence[float],
    total_steps: int,
    rise_steps: int | float,
    fall_steps: int | float | None,
    shape: Shape,
) -> float:
    """At ``step``, on the way through ``levels``: start, peak, (foot of the fall,) end."""
    step = whole("step", step, least=0)
    total = whole("total_steps", total_steps, least=1)
    if shape not in get_args(Shape):
        raise ValueError(f"`shape` must be one of {list(get_args(Shape))}; got {shape!r}.")
    if fall_steps is None:
        phases = lengths(total, rise_steps=rise_steps)
    else:
        phases = lengths(total, rise_steps=rise_steps, fall_steps=fall_steps)
    phases.append(total - sum(phases))
    for (start, end), length in zip(pairwise(levels), phases, strict=True):
        if step < length:
            x = step / length
            return start + (end - start) * (x if shape == "linear" else (1 - cos(pi * x)) / 2)
        step -= length
    return levels[-1]


def one_cycle_factor(
    step: int,
    *,
    total_steps: int,
    rise_steps: int | float = 0.3,
    fall_steps: int | float | None = None,
    shape: Shape = "cosine",
    initial_ratio: float = 0.04,
    min_ratio: float = 4e-6,
) -> float:
    r"""Share of the highest learning rate at ``step``, the number of steps already taken.

    From ``initial_ratio`` :math:`i` up to 1 over ``rise_steps`` :math:`a`, then down to ``min_ratio``
    :math:`r` over the rest of ``total_steps`` :math:`T`. With ``fall_steps`` :math:`b` it goes down to
    :math:`i` over these, and only then to :math:`r`. Each phase, from :math:`u` to :math:`v` over
    :math:`n` steps, has at its step :math:`s < n`

    .. math:: u + (v-u)\,\tfrac12\big(1 - \cos(\pi s/n)\big) \quad\text{or, linear,}\quad u + (v-u)\,s/n

    and :math:`f(t) = r` for :math:`t \ge T`. An int of steps is steps, a float a share of
    ``total_steps``, rounded down (1 is one step, 1.0 all of them).

    Raises ValueError unless the phases fit into ``total_steps``, ``total_steps >= 1``, ``initial_ratio``
    lies in (0, 1], ``min_ratio`` in [0, 1], ``shape`` is one of the two and ``step >= 0``; TypeError for
    steps that are not whole and ratios that are no numbers.
    Source: Smith and Topin 2017, arXiv:1708.07120, section 3 (one cycle, linear, a little shorter than
    the run, then a fall below where it began): ``shape="linear"`` with ``fall_steps`` equal to
    ``rise_steps``. Departs from it: the defaults are those of `torch.optim.lr_scheduler.OneCycleLR`, to
    which it is equal with one step more, whose last has rate :math:`r`; here step :math:`T` would be
    that one, so every step of the run is above it.

    >>> [round(one_cycle_factor(step, total_steps=8, rise_steps=2), 3) for step in range(9)]
    [0.04, 0.52, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067, 0.0]
    """
    check_ratio("initial_ratio", initial_ratio)
    check_ratio("min_ratio", min_ratio)
    if initial_ratio == 0:
        raise ValueError("`initial_ratio` must be above 0, or the first step is wasted; got 0.")
    foot = [] if fall_steps is None else [initial_ratio]
    levels = [initial_ratio, 1.0, *foot, min_ratio]
    return _cycle(step, levels, total_steps, rise_steps, fall_steps, shape)


def _pair(momentum: Sequence[float]) -> tuple[float, float]:
    """The momentum at the ends, and at the peak of the rate; checked."""
    pair = tuple(momentum) if isinstance(momentum, Sequence) else ()
    if len(pair) != 2 or not all(isinstance(value, Real) and 0 <= value < 1 for value in pair):
        raise ValueError(
            f"`momentum` must be two numbers in [0, 1); got {momentum!r}. "
            "Pass that of the ends and that of the peak, such as (0.95, 0.85)."
        )
    return pair


class MomentumSchedule(FactorSchedule):
    """Learning rates and momenta that are functions of the step alone.

    Args:
        optimizer: whose groups' ``lr``, and ``betas[0]`` or ``momentum``, are set.
        factor: as of `FactorSchedule`.
        momentum: the momentum at a step.

    As with the rates, `load_state_dict` puts the momentum of the saved step in force at once, and one
    that is a tensor is filled. Raises ValueError if a group has neither option.
    Source: Smith 2018, arXiv:1803.09820, cyclical momentum (it falls while the rate rises). Departs from
    it: no.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5, momentum=0.9)
    >>> schedule = MomentumSchedule(optimizer, lambda step: 1.0, lambda step: 0.95 - 0.01 * step)
    >>> optimizer.param_groups[0]["momentum"]
    0.95
    """

    def __init__(
        self, optimizer: Optimizer, factor: Callable[[int], float], momentum: Callable[[int], float]
    ) -> None:
        self.momentum = momentum
        for index, group in enumerate(optimizer.param_groups):
            if "betas" not in group and "momentum" not in group:
                raise ValueError(
                    "`optimizer` must have `betas` or `momentum` to cycle it; "
                    f"got {type(optimizer).__name__} with neither in group {index}. Pass `momentum=None`."
                )
        super().__init__(optimizer, factor)

    def step(self, epoch: int | None = None) -> None:
        """Go one step on."""
        super().step(epoch)
        self._put_momentum()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved step, and put its rates and momentum into the optimizer."""
        super().load_state_dict(state_dict)
        self._put_momentum()

    def _put_momentum(self) -> None:
        momentum = self.momentum(self.last_epoch)
        for group in self.optimizer.param_groups:
            if "betas" in group:
                beta, *others = group["betas"]
                group["betas"] = (put(beta, momentum), *others)
            else:
                group["momentum"] = put(group["momentum"], momentum)


def one_cycle(
    optimizer: Optimizer,
    *,
    total_steps: int,
    rise_steps: int | float = 0.3,
    fall_steps: int | float | None = None,
    shape: Shape = "cosine",
    initial_ratio: float = 0.04,
    min_ratio: float = 4e-6,
    momentum: tuple[float, float] | None = None,
) -> FactorSchedule:
    """Schedule every group's learning rate by `one_cycle_factor`, and its momentum the other way.

    Call ``step()`` after each ``optimizer.step()``. The optimizer's rate is the highest. Past
    ``total_steps`` the rate stays at ``min_ratio`` of it.

    Args:
        momentum: at the start and the end, and at the peak of the rate, such as ``(0.95, 0.85)``:
            ``betas[0]`` of Adam-like optimizers, ``momentum`` of others, in all groups, by the shape
            and within the phases of the rate. By default it is left alone.

    Raises as `one_cycle_factor` does, and ValueError unless a momentum is two numbers in [0, 1) and the
    optimizer has one.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5, momentum=0.9)
    >>> schedule = one_cycle(optimizer, total_steps=100, momentum=(0.95, 0.85))
    >>> schedule.get_last_lr(), optimizer.param_groups[0]["momentum"]
    ([0.02], 0.95)
    """
    phases: dict[str, Any] = {
        "total_steps": total_steps,
        "rise_steps": rise_steps,
        "fall_steps": fall_steps,
        "shape": shape,
    }
    factor = partial(one_cycle_factor, initial_ratio=initial_ratio, min_ratio=min_ratio, **phases)
    if momentum is None:
        return FactorSchedule(optimizer, factor)
    ends, peak = _pair(momentum)
    foot = [] if fall_steps is None else [ends]
    levels = [ends, peak, *foot, ends]
    return MomentumSchedule(optimizer, factor, partial(_cycle, levels=levels, **phases))

"""Nash-MTL: the direction that tasks agree on when they bargain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from athena_multitask._balancer import Balancer, same_tasks
from athena_multitask._cosines import cosines_of, weights_like

Array = NDArray[np.float64]

MAX_ITERATIONS = 200  # of Newton, which takes about 10, or 60 where gradients all but cancel


class NashMTL(Balancer):
    r"""The Nash bargaining solution: see `nash_weights`.

    Args:
        max_norm: the direction is shortened to this length, as in the authors' code; None leaves it at the
            root of the number of tasks, which the equations make it whatever the lengths of the gradients.
        update_every: steps for which weights are kept, solving being dear; the first solves. Kept weights
            belong to rows: give all tasks in each step, in one order; `balance` refuses others.

    Raises ValueError for options out of their range, or another number of tasks while weights are kept.

    >>> import torch
    >>> NashMTL(max_norm=None).direction(torch.tensor([[2.0, 0.0], [0.0, 0.5]]))
    tensor([1., 1.])
    """

    laws: ClassVar[frozenset[str]] = frozenset({"permutation", "non-conflict", "stationary"})

    def __init__(self, *, max_norm: float | None = 1.0, update_every: int = 1) -> None:
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"`max_norm` must be above 0; got {max_norm}. Pass None for no limit.")
        if update_every < 1:
            raise ValueError(f"`update_every` must be at least 1; got {update_every}. Take 1.")
        self.max_norm, self.update_every = max_norm, update_every
        self.step = 0
        self.kept: Tensor | None = None
        self.tasks: tuple[str, ...] = ()  # of the rows, where they were named and weights are kept

    def name_rows(self, tasks: Sequence[str]) -> None:
        """Remember the tasks, where weights are kept; raise ValueError for others than before."""
        if self.update_every > 1:
            self.tasks = same_tasks(self.tasks, tasks)

    def weights(self, gramian: Tensor) -> Tensor:
        """Weights of the tasks, ``(tasks,)``, solved or kept, shortened to ``max_norm``."""
        if self.kept is None or self.step % self.update_every == 0:
            self.kept = nash_weights(gramian)
        elif len(self.kept) != len(gramian):
            raise ValueError(
                f"`gramian` must be of the {len(self.kept)} tasks that weights are kept of; "
                f"got {len(gramian)}. Pass `update_every=1`."
            )
        self.step += 1
        kept = self.kept.to(gramian.device, gramian.dtype)
        if self.max_norm is None:
            return kept
        norm = (kept @ gramian @ kept).clamp(min=0).sqrt()
        return kept * (self.max_norm / norm.clamp(min=self.max_norm))

    def state_dict(self) -> dict[str, Any]:
        """Steps so far, and the weights that are kept."""
        return {"step": self.step, "kept": self.kept, "tasks": list(self.tasks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.step, self.kept, self.tasks = state["step"], state["kept"], tuple(state["tasks"])


def nash_weights(gramian: Tensor) -> Tensor:
    r"""Weights of the direction with the largest product of the tasks' gains.

    .. math:: G w = 1 / w, \quad w > 0, \qquad\text{so that}\qquad
        w = \arg\min_{w > 0} \tfrac12 w^\top G w - \sum_i \log w_i

    Each task gains :math:`g_i^\top d = 1 / w_i`, and :math:`\|d\|^2` is the number of tasks: a gradient's
    length changes its weight, never the direction.

    Args:
        gramian: inner products of the tasks' gradients. A gradient of zero has nothing to gain and gets the
            weight 0; the others bargain without it. Where some combination of gradients is zero, no
            direction is good for all of them: there is no agreement, and all weights are 0.

    Shape: ``(tasks, tasks) -> (tasks,)``.

    Raises ValueError for a Gramian that is not square or not finite.

    Source: Navon et al. 2022, Multi-task learning as a bargaining game, arXiv:2202.01017, section 3. Departs
    from it: the equations are solved exactly, by Newton's method on the convex function whose minimum they
    describe, where it takes a few convex-concave steps.

    >>> import torch
    >>> nash_weights(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.5000, 1.0000])
    >>> nash_weights(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    tensor([0., 1.])
    """
    cosines, lengths, resolution = cosines_of(gramian)
    some = lengths > 0
    weights = np.zeros(len(lengths))
    if some.any():
        weights[some] = bargained(cosines[np.ix_(some, some)], resolution=resolution) / lengths[some]
    return weights_like(weights, gramian)


def bargained(cosines: Array, *, resolution: float) -> Array:
    r"""Solve :math:`C x = 1 / x` for :math:`x > 0`; zeros if there is no solution.

    Newton's steps are shortened until the function goes down enough, which it does from anywhere: it is
    self-concordant. Without a solution ``x`` grows without end while :math:`x^\top C x` does not.

    >>> bargained(np.array([[1.0, 0.6], [0.6, 1.0]]), resolution=1e-15) ** 2 * 1.6
    array([1., 1.])
    """
    n = len(cosines)
    x = np.full(n, np.sqrt(n / max(cosines.sum(), resolution)))
    diagonal = np.arange(n)
    for _ in range(MAX_ITERATIONS):
        if resolution * x.sum() ** 2 > n:
            return np.zeros(n)
        gradient = cosines @ x - 1 / x
        hessian = cosines.copy()
        hessian[diagonal, diagonal] += 1 / x**2
        newton = np.asarray(np.linalg.solve(hessian, -gradient), np.float64)
        if -gradient @ newton < 1e-24 * n:
            break
        x += _step(cosines, x, newton, float(-gradient @ newton)) * newton
    return x


def _step(cosines: Array, x: Array, newton: Array, decrement: float) -> float:
    """The longest of steps 1, 1/2, 1/4 ... that stays above zero and goes down by a tenth of the slope."""
    ratio = newton / x
    slope, curvature = x @ cosines @ newton, newton @ cosines @ newton
    step = min(1.0, 0.99 / max(-ratio.min(), 0.1))
    while decrement > 1e-6:  # nearer, the full step is known to be right, and differences are rounding
        change = step * slope + step**2 / 2 * curvature - np.log1p(step * ratio).sum()
        if change <= -0.1 * step * decrement:
            break
        step /= 2
    return step

"""GradVac: each task's gradient turned towards the others until their cosine is what it usually is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from athena_multitask._balancer import Balancer, same_tasks
from athena_multitask._cosines import cosines_of, weights_like
from athena_multitask._pcgrad import drawn_orders

_HIGHEST = 1 - 1e-6  # a gradient turned to a cosine of 1 would be all of the other one


class GradVac(Balancer):
    r"""Turn each task's gradient to an expected cosine with each other task's, and sum.

    .. math:: g_i' \leftarrow g_i' + \frac{\|g_i'\| \left(\hat\phi_{ij} \sqrt{1 - \phi_{ij}^2}
        - \phi_{ij} \sqrt{1 - \hat\phi_{ij}^2}\right)}{\|g_j\| \sqrt{1 - \hat\phi_{ij}^2}}\, g_j
        \quad \text{where } \phi_{ij} < \hat\phi_{ij}, \qquad
        \hat\phi_{ij} \leftarrow (1 - \beta) \hat\phi_{ij} + \beta \phi_{ij}

    from :math:`g_i' = g_i`, for :math:`j \ne i` in an order drawn anew for each task, with the cosine
    :math:`\phi_{ij}` of :math:`g_i'` and :math:`g_j`. With :math:`\hat\phi = 0` kept it would be PCGrad.
    Expected cosines belong to rows: give all tasks in each step, in one order; `balance` refuses others.

    Args:
        beta: how fast expected cosines follow, in (0, 1].
        seed: of the orders.

    Shape: see `Balancer`.

    Raises ValueError if ``beta`` is outside its range, the Gramian is not finite, or the number of tasks has
    changed.

    Source: Wang et al. 2021, arXiv:2010.05874, algorithm 1. Departs from it: all shared
    parameters are one group; a zero gradient is left alone; an expected cosine counts as 1 - 1e-6 at most.

    >>> vaccine = GradVac(seed=0)
    >>> vaccine.direction(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))  # as PCGrad: nothing is expected yet
    tensor([0.5000, 1.5000])
    >>> vaccine.expected[0, 1]
    tensor(-0.0071, dtype=torch.float64)
    """

    laws: ClassVar[frozenset[str]] = frozenset({"scaling"})

    def __init__(self, *, beta: float = 0.01, seed: int = 0) -> None:
        if not 0 < beta <= 1:
            raise ValueError(f"`beta` must lie in (0, 1]; got {beta}. Take 0.01.")
        self.beta = beta
        self.generator = torch.Generator().manual_seed(seed)
        self.expected = torch.zeros(0, 0, dtype=torch.float64)
        self.tasks: tuple[str, ...] = ()  # of the rows, where they were named

    def name_rows(self, tasks: Sequence[str]) -> None:
        self.tasks = same_tasks(self.tasks, tasks)

    def weights(self, gramian: Tensor) -> Tensor:
        n_tasks = len(gramian)
        if not len(self.expected):
            self.expected = torch.zeros(n_tasks, n_tasks, dtype=torch.float64)
        if len(self.expected) != n_tasks:
            raise ValueError(
                f"`gramian` must be of {len(self.expected)} tasks as before; got {n_tasks}. Give all of "
                "them each time."
            )
        orders = drawn_orders(n_tasks, self.generator)
        weights, self.expected = gradvac_weights(gramian, self.expected, orders, beta=self.beta)
        return weights

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self.generator.get_state(),
            "expected": self.expected.clone(),
            "tasks": list(self.tasks),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
        self.expected = state["expected"].to("cpu", torch.float64, copy=True)
        self.tasks = tuple(state["tasks"])


def gradvac_weights(
    gramian: Tensor, expected: Tensor, orders: Sequence[Sequence[int]], *, beta: float
) -> tuple[Tensor, Tensor]:
    r"""Coefficients of the gradients in :math:`\sum_i g_i'`, and the expected cosines after it.

    Shape: ``(tasks, tasks), (tasks, tasks) -> (tasks,), (tasks, tasks)``, the expected ones on the CPU.

    Raises ValueError for a Gramian that is not square or not finite.

    >>> gramian = torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    >>> gradvac_weights(gramian, torch.zeros_like(gramian), [[1], [0]], beta=0.5)[0]
    tensor([2.0000, 1.5000], dtype=torch.float64)
    """
    cosines, lengths, _ = cosines_of(gramian)
    tasks = np.arange(len(lengths))
    unit = np.where(lengths > 0, lengths, 1)
    phi_hat = expected.numpy().copy()
    # Of unit gradients: the coefficients of each changed gradient, and its products with each.
    coefficients, products = np.diag(unit), cosines * lengths[:, None]
    # All tasks take their step number k at once: they do not depend on each other.
    for others in np.array(orders, dtype=np.intp).reshape(len(tasks), -1).T:
        length = (products * coefficients).sum(1).clip(min=0) ** 0.5
        seen = (length > 0) & (lengths[others] > 0)
        phi = (products[tasks, others] / np.where(seen, length, 1)).clip(-1, 1)
        wanted = phi_hat[tasks, others]
        step = np.where(seen & (phi < wanted), length * _turn(phi, wanted), 0)
        coefficients[tasks, others] += step
        products += step[:, None] * cosines[others]
        phi_hat[tasks, others] += np.where(seen, beta * (phi - wanted), 0)
    return weights_like(coefficients.sum(0) / unit, gramian), torch.from_numpy(phi_hat)


def _turn(phi: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of the other unit gradient a unit gradient needs, for its cosine to become the wanted one."""
    wanted = wanted.clip(-_HIGHEST, _HIGHEST)
    sine = (1 - wanted**2) ** 0.5
    return (wanted * (1 - phi**2) ** 0.5 - phi * sine) / sine

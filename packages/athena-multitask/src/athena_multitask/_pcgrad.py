"""PCGrad: each task's gradient without what conflicts with the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from athena_multitask._balancer import Balancer
from athena_multitask._cosines import cosines_of, weights_like


class PCGrad(Balancer):
    r"""Project each task's gradient on the normal planes of those it conflicts with, and sum.

    .. math:: g_i^{PC} \leftarrow g_i^{PC} - \frac{g_i^{PC} \cdot g_j}{\|g_j\|^2} g_j
        \quad \text{where } g_i^{PC} \cdot g_j < 0, \qquad d = \sum_i g_i^{PC}

    from :math:`g_i^{PC} = g_i`, for :math:`j \ne i` in an order drawn anew for each task. What is projected
    on are the gradients themselves, not those already projected.

    Args:
        seed: of the orders.

    Shape: see `Balancer`.

    Raises ValueError for a Gramian that is not finite.

    Source: Yu et al. 2020, arXiv:2001.06782, algorithm 1. Departs from it: coefficients of the gradients are
    found from their Gramian, which is the same.

    >>> PCGrad(seed=0).direction(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    tensor([0.5000, 1.5000])
    """

    laws: ClassVar[frozenset[str]] = frozenset({"scaling"})

    def __init__(self, *, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def weights(self, gramian: Tensor) -> Tensor:
        return pcgrad_weights(gramian, drawn_orders(len(gramian), self.generator))

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())


def drawn_orders(tasks: int, generator: torch.Generator) -> list[list[int]]:
    """For each task the others, in an order of its own.

    >>> sorted(drawn_orders(3, torch.Generator())[1])
    [0, 2]
    """
    drawn = torch.rand(tasks, tasks - 1, generator=generator, dtype=torch.float64).argsort(1)
    others = drawn + (drawn >= torch.arange(tasks)[:, None])
    return others.tolist()


def pcgrad_weights(gramian: Tensor, orders: Sequence[Sequence[int]]) -> Tensor:
    r"""Coefficients of the gradients in :math:`\sum_i g_i^{PC}`, task :math:`i` meeting the others in order.

    Shape: ``(tasks, tasks) -> (tasks,)``.

    Raises ValueError for a Gramian that is not square or not finite.

    >>> pcgrad_weights(torch.tensor([[1.0, -1.0], [-1.0, 2.0]]), [[1], [0]])
    tensor([2.0000, 1.5000])
    """
    cosines, lengths, _ = cosines_of(gramian)
    tasks = np.arange(len(lengths))
    unit = np.where(lengths > 0, lengths, 1)
    # Of unit gradients: the coefficients of each changed gradient, and its products with each.
    coefficients, products = np.diag(unit), cosines * lengths[:, None]
    # All tasks take their step number k at once: they do not depend on each other.
    for others in np.array(orders, dtype=np.intp).reshape(len(tasks), -1).T:
        step = np.minimum(products[tasks, others], 0)
        coefficients[tasks, others] -= step
        products -= step[:, None] * cosines[others]
    return weights_like(coefficients.sum(0) / unit, gramian)

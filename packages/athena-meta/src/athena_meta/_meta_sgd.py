"""Meta-SGD: a start, and a rate for each of its elements."""

from __future__ import annotations

from typing import Any

from torch import nn

from athena_meta._elementwise_descent import ElementwiseDescent
from athena_meta._maml import MAML


class MetaSGD(MAML):
    r"""MAML that learns its inner rates, one for each element, with the start.

    .. math:: \min_{\theta, \alpha} \frac{1}{n} \sum_i
        L^{\mathrm{query}}_i(\theta - \alpha \odot \nabla L^{\mathrm{support}}_i(\theta))

    Args:
        network: any module of one input.
        inner_lr: where all rates start.
        inner_steps: one in the paper.
        options: the others of :class:`MAML`.

    Raises what :class:`MAML` raises.
    Source: Li et al. 2017, arXiv:1707.09835, algorithm 1. Departs from it: see :class:`ElementwiseDescent`.

    >>> meta = MetaSGD(nn.Linear(3, 2), inner_lr=0.1)
    >>> sorted(meta.state_dict())
    ['inner.rates.bias', 'inner.rates.weight', 'network.bias', 'network.weight']
    """

    def __init__(
        self, network: nn.Module, *, inner_lr: float = 0.01, inner_steps: int = 1, **options: Any
    ) -> None:
        super().__init__(network, inner=ElementwiseDescent(inner_lr), inner_steps=inner_steps, **options)

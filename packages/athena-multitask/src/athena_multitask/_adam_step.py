"""Adam as a pure function, for weights that a weighting moves by itself."""

from __future__ import annotations

import torch
from torch import Tensor

_BETA_1, _BETA_2, _EPS = 0.9, 0.999, 1e-8


def adam_step(
    value: Tensor, gradient: Tensor, moments: Tensor, step: int, *, lr: float, decay: float = 0.0
) -> tuple[Tensor, Tensor]:
    r"""One step of Adam with its usual constants, and the moments after it.

    .. math:: g \leftarrow g + \lambda v, \quad m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        s \leftarrow \beta_2 s + (1 - \beta_2) g^2, \quad
        v \leftarrow v - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{s / (1 - \beta_2^t)} + \epsilon}

    Args:
        value, gradient: ``(n,)``.
        moments: :math:`m` and :math:`s`, ``(2, n)``, zeros at first.
        step: :math:`t`, 1 at first.
        lr: :math:`\eta`.
        decay: :math:`\lambda`, which joins the gradient.

    Shape: ``(n,), (n,), (2, n) -> (n,), (2, n)``.

    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1. Departs from it: the decay.

    >>> one = torch.ones(1)
    >>> adam_step(one, 5 * one, torch.zeros(2, 1), 1, lr=0.1)[0]
    tensor([0.9000])
    """
    gradient = gradient + decay * value
    mean, square = moments
    mean = _BETA_1 * mean + (1 - _BETA_1) * gradient
    square = _BETA_2 * square + (1 - _BETA_2) * gradient.square()
    first, second = 1 - _BETA_1**step, 1 - _BETA_2**step
    moved = value - lr * (mean / first) / ((square / second).sqrt() + _EPS)
    return moved, torch.stack((mean, square))

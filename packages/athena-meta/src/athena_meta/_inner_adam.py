"""Adam as an inner update, differentiable where its second moment is zero."""

from __future__ import annotations

import torch
from torch import Tensor

from athena_meta._descent import checked_rate
from athena_meta._inner_update import InnerUpdate, Tensors


class InnerAdam(InnerUpdate):
    r"""Adam, with its moments starting from zero in each task.

    .. math::
        m_{t+1} = \beta_1 m_t + (1 - \beta_1) g_t, \quad
        v_{t+1} = \beta_2 v_t + (1 - \beta_2) g_t^2, \quad
        \phi_{t+1} = \phi_t - \alpha \frac{m_{t+1} / (1 - \beta_1^{t+1})}
                                          {\sqrt{v_{t+1} / (1 - \beta_2^{t+1})} + \epsilon}

    The root has no derivative at zero, where a parameter has had no gradient yet; 0 is taken, so that such a
    parameter's second-order terms vanish where others would have made them NaN.

    Args:
        lr: :math:`\alpha`.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon`, above 0.

    Raises ValueError for a rate, a beta or an epsilon out of range.
    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1. Departs from it: the derivative at zero.

    >>> update = InnerAdam(0.5)
    >>> parameters = {"weight": torch.tensor([3.0, 3.0])}
    >>> moved, _ = update(parameters, {"weight": torch.tensor([7.0, 0.0])}, update.start(parameters), 0)
    >>> moved
    {'weight': tensor([2.5000, 3.0000])}
    """

    def __init__(
        self, lr: float = 0.001, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__()
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"`betas` must both lie in [0, 1); got {betas}.")
        if not eps > 0:
            raise ValueError(f"`eps` must be above 0; got {eps}. It keeps a step without gradients finite.")
        self.lr, self.betas, self.eps = checked_rate("lr", lr), betas, eps

    def start(self, parameters: Tensors) -> Tensors:
        zeros = {name: torch.zeros_like(value) for name, value in parameters.items()}
        return {f"first.{name}": value for name, value in zeros.items()} | {
            f"second.{name}": value for name, value in zeros.items()
        }

    def forward(
        self, parameters: Tensors, gradients: Tensors, state: Tensors, step: int
    ) -> tuple[Tensors, Tensors]:
        moved, moments = {}, {}
        first_beta, second_beta = self.betas
        first_bias, second_bias = 1 - first_beta ** (step + 1), 1 - second_beta ** (step + 1)
        for name, value in parameters.items():
            gradient = gradients[name]
            first = first_beta * state[f"first.{name}"] + (1 - first_beta) * gradient
            second = second_beta * state[f"second.{name}"] + (1 - second_beta) * gradient.square()
            moments |= {f"first.{name}": first, f"second.{name}": second}
            moved[name] = value - self.lr * (first / first_bias) / (_root(second / second_bias) + self.eps)
        return moved, moments

    def extra_repr(self) -> str:
        return f"lr={self.lr:g}, betas={self.betas}, eps={self.eps:g}"


def _root(x: Tensor) -> Tensor:
    """The square root, with the derivative 0 at 0."""
    positive = x > 0
    # The inner `where` keeps the infinite derivative out, which the outer alone would multiply by 0.
    return torch.where(positive, torch.where(positive, x, 1).sqrt(), 0)

"""Gradient descent with momentum as an inner update."""

from __future__ import annotations

import torch

from athena_meta._descent import checked_rate
from athena_meta._inner_update import InnerUpdate, Tensors


class InnerMomentum(InnerUpdate):
    r"""Descent along a running sum of gradients.

    .. math:: v_{t+1} = \mu v_t + \nabla L(\phi_t), \qquad \phi_{t+1} = \phi_t - \alpha v_{t+1}

    Args:
        lr: :math:`\alpha`.
        momentum: :math:`\mu`, in [0, 1).

    Raises ValueError for a negative rate, and a momentum out of its range.
    Source: Sutskever et al. 2013 (ICML), eq. 1 and 2. Departs from it: the rate is outside of the sum, as in
    torch.optim.SGD, which is the same for a constant rate.

    >>> update = InnerMomentum(0.5, momentum=0.9)
    >>> parameters, state = {"weight": torch.tensor(3.0)}, {"weight": torch.tensor(2.0)}
    >>> update(parameters, {"weight": torch.tensor(0.2)}, state, 1)
    ({'weight': tensor(2.)}, {'weight': tensor(2.)})
    """

    def __init__(self, lr: float = 0.01, *, momentum: float = 0.9) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must lie in [0, 1); got {momentum}.")
        self.lr, self.momentum = checked_rate("lr", lr), momentum

    def start(self, parameters: Tensors) -> Tensors:
        return {name: torch.zeros_like(value) for name, value in parameters.items()}

    def forward(
        self, parameters: Tensors, gradients: Tensors, state: Tensors, step: int
    ) -> tuple[Tensors, Tensors]:
        del step
        velocity = {name: gradients[name].add(state[name], alpha=self.momentum) for name in parameters}
        moved = {name: value.sub(velocity[name], alpha=self.lr) for name, value in parameters.items()}
        return moved, velocity

    def extra_repr(self) -> str:
        return f"lr={self.lr:g}, momentum={self.momentum:g}"

"""Gradient descent with a learned rate for each element."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from athena_meta._descent import checked_rate
from athena_meta._inner_update import InnerUpdate, Tensors, undotted


class ElementwiseDescent(InnerUpdate):
    r"""Descent with a rate for each element: :math:`\phi_{t+1} = \phi_t - \alpha \odot \nabla L(\phi_t)`.

    :math:`\alpha` has the shape of :math:`\theta` and is trained with it, so it chooses directions too, and
    may become negative. It is among the parameters of the learner, and in its ``state_dict``.

    Args:
        lr: where every rate starts.

    Raises ValueError for a negative rate or one that is not finite.
    Source: Li et al. 2017, arXiv:1707.09835, eq. 1. Departs from it: any number of steps, and all rates start
    from one value; the paper draws them.

    >>> update = ElementwiseDescent(0.5)
    >>> update.prepare({"net.weight": torch.zeros(2)}, steps=1)
    >>> update({"net.weight": torch.ones(2)}, {"net.weight": torch.tensor([2.0, 0.0])}, {}, 0)[0]
    {'net.weight': tensor([0., 1.], grad_fn=<SubBackward0>)}
    """

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = checked_rate("lr", lr)
        self.rates = nn.ParameterDict()

    def prepare(self, parameters: Mapping[str, Tensor], *, steps: int) -> None:
        del steps
        self.rates = nn.ParameterDict(
            {undotted(name): torch.full_like(value.detach(), self.lr) for name, value in parameters.items()}
        )

    def start(self, parameters: Tensors) -> Tensors:
        del parameters
        return {}

    def forward(
        self, parameters: Tensors, gradients: Tensors, state: Tensors, step: int
    ) -> tuple[Tensors, Tensors]:
        del step
        moved = {
            name: value - self.rates[undotted(name)] * gradients[name] for name, value in parameters.items()
        }
        return moved, state

    def extra_repr(self) -> str:
        return f"lr={self.lr:g}"

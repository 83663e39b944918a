"""Gradient descent with a learned rate for each layer and step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from athena_meta._descent import checked_rate
from athena_meta._inner_update import InnerUpdate, Tensors


class LayerwiseDescent(InnerUpdate):
    r"""Descent with a rate for each layer and step, :math:`\phi^l_{t+1} = \phi^l_t - \alpha^l_t \nabla_l L`.

    The parameters of one module, its weight and bias, are a layer and share their rates. These are one
    parameter ``rates (layers, steps)``, trained with the start, and may become negative. Steps beyond those
    of the training take the last one's.

    Args:
        lr: where every rate starts.

    Raises ValueError for a negative rate or one that is not finite.
    Source: Antoniou et al. 2019, arXiv:1810.09502, section 4, "learning per-layer per-step learning rates".
    Departs from it: no.

    >>> update = LayerwiseDescent(0.5)
    >>> update.prepare({"net.weight": torch.zeros(2), "net.bias": torch.zeros(1)}, steps=3)
    >>> update.layers, update.rates.shape
    ({'net': 0}, torch.Size([1, 3]))
    """

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = checked_rate("lr", lr)
        #: The row of each layer in ``rates``.
        self.layers: dict[str, int] = {}
        self.rates = nn.Parameter(torch.zeros(0, 0))

    def prepare(self, parameters: Mapping[str, Tensor], *, steps: int) -> None:
        names = dict.fromkeys(map(_layer, parameters))
        self.layers = {name: row for row, name in enumerate(names)}
        # As wide and on the device of what the rates multiply.
        like = next(iter(parameters.values()))
        self.rates = nn.Parameter(like.new_full((len(names), max(steps, 1)), self.lr))

    def start(self, parameters: Tensors) -> Tensors:  # noqa: ARG002
        return {}

    def forward(
        self, parameters: Tensors, gradients: Tensors, state: Tensors, step: int
    ) -> tuple[Tensors, Tensors]:
        rates = self.rates[:, min(step, self.rates.shape[1] - 1)]
        moved = {
            name: value - rates[self.layers[_layer(name)]] * gradients[name]
            for name, value in parameters.items()
        }
        return moved, state

    def extra_repr(self) -> str:
        return f"lr={self.lr:g}"


def _layer(name: str) -> str:
    """The module that a parameter belongs to."""
    return name.rpartition(".")[0]

"""Plain gradient descent as an inner update."""

from __future__ import annotations

from math import isfinite
from numbers import Real

from athena_meta._inner_update import InnerUpdate, Tensors


def checked_rate(name: str, rate: float) -> float:
    """A rate that is finite and not negative. Raises ValueError for others, TypeError for no number."""
    if not isinstance(rate, Real):
        raise TypeError(f"`{name}` must be a number; got {rate!r}. Rates of 1e-3 to 1 are usual.")
    if not (isfinite(rate) and rate >= 0):
        raise ValueError(f"`{name}` must be finite and at least 0; got {rate}. Rates of 1e-3 to 1 are usual.")
    return float(rate)


class Descent(InnerUpdate):
    r"""Gradient descent, :math:`\phi_{t+1} = \phi_t - \alpha \nabla L(\phi_t)`.

    Args:
        lr: :math:`\alpha`, of all parameters and steps.

    Raises ValueError for a negative rate or one that is not finite.
    Source: Finn et al. 2017, arXiv:1703.03400, eq. 1. Departs from it: no.

    >>> import torch
    >>> update = Descent(0.5)
    >>> update({"weight": torch.tensor(3.0)}, {"weight": torch.tensor(2.0)}, {}, 0)
    ({'weight': tensor(2.)}, {})
    """

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = checked_rate("lr", lr)

    def start(self, parameters: Tensors) -> Tensors:  # noqa: ARG002
        return {}

    def forward(
        self,
        parameters: Tensors,
        gradients: Tensors,
        state: Tensors,
        step: int,  # noqa: ARG002
    ) -> tuple[Tensors, Tensors]:
        moved = {name: value.sub(gradients[name], alpha=self.lr) for name, value in parameters.items()}
        return moved, state

    def extra_repr(self) -> str:
        return f"lr={self.lr:g}"

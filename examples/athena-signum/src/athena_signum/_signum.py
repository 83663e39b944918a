"""Signum: the sign of momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Signum(torch.optim.Optimizer):
    r"""Move every element by the learning rate, in the direction of its momentum's sign.

    .. math:: m_{k+1} = \beta m_k + (1 - \beta)\, g_k, \qquad
              x_{k+1} = x_k - \delta \operatorname{sign}(m_{k+1})

    Every element with a momentum other than 0 moves equally far; scaling all gradients by one
    factor changes nothing.

    Args:
        params: parameters or groups.
        lr: learning rate :math:`\delta`, what each element moves in a step.
        momentum: :math:`\beta`; 0 makes it signSGD.

    Raises ValueError for options outside their ranges, RuntimeError for a sparse gradient.
    Source: Bernstein, Wang, Azizzadenesheli, Anandkumar 2018, "signSGD: Compressed Optimisation for
    Non-Convex Problems", arXiv:1802.04434, algorithm 2. Departs from it: no.

    >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> optimizer = Signum([weight], lr=0.25)
    >>> (weight**2).sum().backward()
    >>> optimizer.step()
    >>> weight.data
    tensor([ 0.7500, -1.7500])
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, *, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, its options checked first."""
        options = {**self.defaults, **param_group}
        if not 0 <= options["lr"] < float("inf"):
            raise ValueError(f"`lr` must be finite and at least 0; got {options['lr']}.")
        if not 0 <= options["momentum"] < 1:
            raise ValueError(f"`momentum` must lie in [0, 1); got {options['momentum']}.")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; returns what ``closure`` returned, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], group["momentum"])
        return loss

    def _update(self, parameter: Tensor, grad: Tensor, lr: float, momentum: float) -> None:
        if grad.is_sparse:
            raise RuntimeError("`Signum` takes dense gradients; got a sparse one. Pass sparse=False.")
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(grad, 1 - momentum)
        parameter.add_(average.sign(), alpha=-lr)

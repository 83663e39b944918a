"""Elastic weight consolidation: parameters that earlier tasks need are held where they were."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from athena_multitask._diagonal_fisher import LogLikelihood, diagonal_fisher


class EWC:
    r"""A penalty for leaving the parameters that earlier tasks were learned with.

    .. math:: \frac{\lambda}{2} \sum_t \sum_m F_{t,m} (\theta_m - \theta_{t,m}^*)^2

    Call `consolidate` after each task, and add `penalty` to the loss of the next ones. The sum over tasks is
    itself a quadratic, kept as one importance and one anchor a parameter, whatever the number of tasks:

    .. math:: F = \sum_t F_t, \quad \theta^* = \sum_t F_t \theta_t^* / F, \quad
        \text{offset} = \sum_t F_t (\theta_t^* - \theta^*)^2

    Args:
        model: any module. Parameters that are not trained when a task is consolidated, are not held by it.
        strength: :math:`\lambda`.

    Shape: of the penalty: a scalar.

    Raises ValueError for a strength below 0 or not finite, or a state of other parameters.

    Source: Kirkpatrick et al. 2017, Overcoming catastrophic forgetting in neural networks, arXiv:1612.00796,
    equation 3. Departs from it: no.

    >>> model = nn.Linear(1, 2)
    >>> ewc = EWC(model, strength=10.0)
    >>> ewc.consolidate(torch.ones(4, 1))
    >>> ewc.penalty().item()
    0.0
    >>> _ = model.weight.data.add_(1)
    >>> ewc.penalty().item() > 0
    True
    """

    def __init__(self, model: nn.Module, *, strength: float = 1000.0) -> None:
        if not (math.isfinite(strength) and strength >= 0):
            raise ValueError(f"`strength` must be finite and at least 0; got {strength}. Take 0 for none.")
        self.model = model
        self.strength = strength
        self._importance: dict[str, Tensor] = {}
        self._anchor: dict[str, Tensor] = {}
        self._offset: dict[str, Tensor] = {}

    def consolidate(
        self,
        inputs: Tensor,
        targets: Tensor | None = None,
        *,
        log_likelihood: LogLikelihood | None = None,
        chunk: int = 32,
        mode: Literal["vmap", "loop"] = "vmap",
    ) -> None:
        """Hold from now on what these rows of a task need; see `diagonal_fisher`."""
        fisher = diagonal_fisher(
            self.model, inputs, targets, log_likelihood=log_likelihood, chunk=chunk, mode=mode
        )
        self.add(fisher)

    def add(self, fisher: Mapping[str, Tensor]) -> None:
        """Hold the present parameters by a given importance of each, by name.

        Raises ValueError for an unknown name.
        """
        theta = dict(self.model.named_parameters())
        for name, new in fisher.items():
            if name not in theta or theta[name].shape != new.shape:
                raise ValueError(
                    f"`fisher` must have names and shapes of the model's parameters; got {name!r}, "
                    f"{tuple(new.shape)}. Calculate it by `diagonal_fisher` of this model."
                )
        for name, new in fisher.items():
            here = theta[name].detach()
            importance, anchor, offset = combined_quadratic(
                self._importance.get(name, torch.zeros_like(here)), self._anchor.get(name, here), new, here
            )
            self._importance[name], self._anchor[name] = importance, anchor
            self._offset[name] = self._offset.get(name, torch.zeros_like(offset)) + offset

    def penalty(self) -> Tensor:
        """To add to the loss; 0 before the first task."""
        theta = dict(self.model.named_parameters())
        parts = [
            (importance * (theta[name] - self._anchor[name]).square()).sum() + self._offset[name]
            for name, importance in self._importance.items()
        ]
        if not parts:
            reference = next(self.model.parameters())
            return torch.zeros((), device=reference.device, dtype=reference.dtype)
        return 0.5 * self.strength * torch.stack(parts).sum()

    def state_dict(self) -> dict[str, Any]:
        parts = {"importance": self._importance, "anchor": self._anchor, "offset": self._offset}
        return {name: {key: value.clone() for key, value in part.items()} for name, part in parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        theta = dict(self.model.named_parameters())
        for name, anchor in state["anchor"].items():
            if name not in theta or theta[name].shape != anchor.shape:
                raise ValueError(
                    f"`state` must be of this model's parameters; got {name!r}, {tuple(anchor.shape)}. "
                    "Make the model as it was."
                )
        # a copy, for `to` copies nothing on the same device
        moved = {
            part: {name: value.to(theta[name].device).clone() for name, value in state[part].items()}
            for part in ("importance", "anchor", "offset")
        }
        self._importance, self._anchor, self._offset = (
            moved[part] for part in ("importance", "anchor", "offset")
        )


def combined_quadratic(
    importance: Tensor, anchor: Tensor, new: Tensor, here: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The sum of two quadratics as one: importance, anchor, and a scalar offset.

    .. math:: F_a(\theta-a)^2 + F_b(\theta-b)^2 = (F_a+F_b)\Big(\theta - a - \tfrac{F_b (b-a)}{F_a+F_b}\Big)^2
        + \tfrac{F_a F_b}{F_a+F_b}(a-b)^2

    Where both importances are 0, the anchor stays.

    >>> one, zero, two = torch.ones(1), torch.zeros(1), torch.tensor([2.0])
    >>> combined_quadratic(one, zero, one, two)
    (tensor([2.]), tensor([1.]), tensor(2.))
    """
    total = importance + new
    share = torch.where(total > 0, new / torch.where(total > 0, total, 1), 0)  # no 0 / 0
    difference = here - anchor
    return total, anchor + share * difference, (importance * share * difference.square()).sum()

"""Random loss weighting: weights that are drawn anew in each step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from athena_multitask._task_weighting import Rows, TaskWeighting


class RandomWeighting(TaskWeighting):
    r"""Weights drawn from the simplex in each step, as a baseline that others must beat.

    .. math:: L = \sum_i \lambda_i L_i, \qquad \lambda = \mathrm{softmax}(z), \ z \sim N(0, I)
        \qquad \text{or} \qquad \lambda \sim \mathrm{Dirichlet}(1, \ldots, 1)

    Their sum is 1, their mean :math:`1/n`, which is what `eval` weights with. Of a batch that lacks a task,
    the weights of the others are as they would be with it. Draws are from an own generator on the CPU.

    Args:
        tasks: see `TaskWeighting`.
        distribution: ``"normal"`` or ``"dirichlet"``, the uniform one on the simplex.
        seed: of the generator, whose state is kept in checkpoints.

    Shape: losses ``()``, the result ``()``.

    Raises ValueError for another distribution; else see `TaskWeighting`.

    Source: Lin et al. 2022, arXiv:2111.10603 (RLW). Departs from it: of its distributions, these two.

    >>> losses = {"depth": torch.tensor(1.0), "segment": torch.tensor(1.0)}
    >>> weighting = RandomWeighting(losses, seed=1)
    >>> round(weighting(losses).item(), 4), bool(weighting.weights.std() > 0)
    (1.0, True)
    """

    def __init__(
        self,
        tasks: Iterable[str],
        *,
        distribution: Literal["normal", "dirichlet"] = "normal",
        seed: int = 0,
    ) -> None:
        super().__init__(tasks)
        if distribution not in ("normal", "dirichlet"):
            raise ValueError(
                f'`distribution` must be "normal" or "dirichlet"; got {distribution!r}. Take "normal".'
            )
        self.distribution = distribution
        self.generator = torch.Generator().manual_seed(seed)

    def combine(self, losses: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """The weighted sum, and the weights."""
        weights = self._drawn()[rows].to(losses)
        return (weights * losses).sum(), weights

    def _drawn(self) -> Tensor:
        weights = torch.empty(len(self.tasks))
        if not self.learning:
            return weights.fill_(1 / len(self.tasks))
        if self.distribution == "normal":
            return weights.normal_(generator=self.generator).softmax(0)
        weights.exponential_(generator=self.generator)  # over their sum, they are uniform on the simplex
        return weights / weights.sum()

    def get_extra_state(self) -> dict[str, Any]:
        """The names, and the generator's state."""
        return {**super().get_extra_state(), "generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_extra_state` gave."""
        super().set_extra_state(state)
        self.generator.set_state(state["generator"].cpu())

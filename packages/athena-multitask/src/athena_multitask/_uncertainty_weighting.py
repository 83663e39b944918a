"""Uncertainty weighting: each loss over a variance that is learned with the model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from athena_multitask._task_weighting import Rows, TaskWeighting


class UncertaintyWeighting(TaskWeighting):
    """Weights by the homoscedastic uncertainty of each task: see `uncertainty_loss`.

    The logarithms of the variances are a parameter, ``log_variances``, 0 at first: **give it to the
    optimizer**, without weight decay, which would draw the variances to 1. A task that is missing adds
    neither its loss nor its variance. In several processes, put it into the module that
    ``DistributedDataParallel`` wraps, or average its gradient.

    Args:
        tasks: see `TaskWeighting`.
        classification: those whose loss is a cross-entropy; the losses of the others are squared errors.

    Shape: losses ``()``, the result ``()``.

    Raises ValueError for an unknown name in ``classification``; else see `TaskWeighting`.

    Source: Kendall, Gal and Cipolla 2018, arXiv:1705.07115, equations 7 and 10. Departs from it: no.

    >>> weighting = UncertaintyWeighting(["depth", "segment"], classification=["segment"])
    >>> optimizer = torch.optim.SGD(weighting.parameters(), lr=0.1)  # and the model's
    >>> weighting({"depth": torch.tensor(4.0), "segment": torch.tensor(1.0)}).backward()
    >>> optimizer.step()
    >>> weighting.log_variances.data
    tensor([0.1500, 0.0500])
    """

    scales: Tensor

    def __init__(self, tasks: Iterable[str], *, classification: Iterable[str] = ()) -> None:
        super().__init__(tasks)
        classes = [classification] if isinstance(classification, str) else list(classification)
        if unknown := [name for name in classes if name not in self.tasks]:
            raise ValueError(
                f"`classification` must name tasks of {list(self.tasks)}; got {unknown[0]!r}. "
                "Name those whose loss is a cross-entropy."
            )
        self.log_variances = nn.Parameter(torch.zeros(len(self.tasks)))
        scales = torch.tensor([1.0 if name in classes else 0.5 for name in self.tasks])
        self.register_buffer("scales", scales, persistent=False)

    def combine(self, losses: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """The loss, and the weights that the variances give."""
        logs, scales = self.log_variances[rows].to(losses), self.scales[rows].to(losses)
        return uncertainty_loss(losses, logs, scales), scales * (-logs.detach()).exp()


def uncertainty_loss(losses: Tensor, log_variances: Tensor, scales: Tensor) -> Tensor:
    r"""Negative log-likelihood of several outputs, each with a variance :math:`\sigma_i^2` of its own.

    .. math:: L = \sum_i \frac{c_i L_i}{\sigma_i^2} + \log \sigma_i, \qquad
        c_i = \tfrac12 \text{ (regression)}, \quad c_i = 1 \text{ (classification)}

    Args:
        losses: squared errors, or cross-entropies, ``(tasks,)``.
        log_variances: :math:`\log \sigma_i^2`, ``(tasks,)``.
        scales: :math:`c_i`, ``(tasks,)``.

    Shape: ``(tasks,), (tasks,), (tasks,) -> ()``.

    Source: Kendall, Gal and Cipolla 2018, arXiv:1705.07115, equations 7 and 10. Departs from it: no.

    >>> uncertainty_loss(torch.tensor([4.0, 1.0]), torch.zeros(2), torch.tensor([0.5, 1.0]))
    tensor(3.)
    """
    return (scales * (-log_variances).exp() * losses + 0.5 * log_variances).sum()

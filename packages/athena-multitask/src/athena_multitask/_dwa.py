"""Dynamic weight average: more weight for losses that fell least from one epoch to the next."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from athena_multitask._task_weighting import Rows, TaskWeighting


class DWA(TaskWeighting):
    """Weights from the losses of the last two epochs: see `dwa_weights`. Until two have ended, all are 1.

    Call `end_epoch` after each. A task's loss in an epoch is its mean over the batches that had the task.

    Args:
        tasks: see `TaskWeighting`.
        temperature: the larger, the more equal the weights.

    Shape: losses ``()``, the result ``()``.

    Raises ValueError for a temperature that is not positive; else see `TaskWeighting` and `end_epoch`.

    Source: Liu, Johns and Davison 2019, arXiv:1803.10704, equation 7. Departs from it: no.

    >>> dwa = DWA(["depth", "segment"])
    >>> for depth, segment in [(1.0, 1.0), (0.9, 0.1)]:
    ...     _ = dwa({"depth": torch.tensor(depth), "segment": torch.tensor(segment)})
    ...     dwa.end_epoch()
    >>> dwa({"depth": torch.tensor(0.9), "segment": torch.tensor(0.1)}), dwa.weights
    (tensor(1.1579), tensor([1.1974, 0.8026]))
    """

    epoch_weights: Tensor
    previous: Tensor
    mean: Tensor
    batches: Tensor

    def __init__(self, tasks: Iterable[str], *, temperature: float = 2.0) -> None:
        super().__init__(tasks)
        if not 0 < temperature < math.inf:
            raise ValueError(f"`temperature` must be positive and finite; got {temperature}. Take 2.")
        self.temperature = temperature
        zeros = torch.zeros(len(self.tasks))
        self.register_buffer("epoch_weights", torch.ones_like(zeros))
        self.register_buffer("previous", zeros)  # 0: no epoch has ended
        self.register_buffer("mean", zeros.clone())
        self.register_buffer("batches", torch.zeros(len(zeros), dtype=torch.int64))

    def combine(self, losses: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """The weighted sum, and the weights of the epoch."""
        if self.learning:
            self.batches[rows] += 1
            self.mean[rows] += (losses.detach().to(self.mean) - self.mean[rows]) / self.batches[rows]
        weights = self.epoch_weights[rows].to(losses)
        return (weights * losses).sum(), weights

    def end_epoch(self) -> None:
        """Weigh the next epoch by this one and the one before.

        Raises ValueError for a task without a loss in the epoch, or whose mean is not positive.
        """
        means = self.averaged(self.mean)
        for name, mean, batches in zip(self.tasks, means.tolist(), self.batches.tolist(), strict=True):
            if not batches or mean <= 0:
                found = f"a mean of {mean}" if batches else "no batch"
                raise ValueError(
                    f"the losses of {name!r} in an epoch must have a positive mean, to compare it with the "
                    f"one before; got {found}. Train in `train()`, or take another weighting."
                )
        if self.previous.any():
            self.epoch_weights.copy_(dwa_weights(means, self.previous, self.temperature))
        self.previous.copy_(means)
        self.mean.zero_()
        self.batches.zero_()


def dwa_weights(losses: Tensor, previous: Tensor, temperature: float) -> Tensor:
    r"""Weights with the sum :math:`n` from how fast each loss fell.

    .. math:: \lambda_i = n\, \frac{\exp(r_i / T)}{\sum_j \exp(r_j / T)}, \qquad
        r_i = \frac{L_i(t - 1)}{L_i(t - 2)}

    Args:
        losses, previous: means of the last epoch, and of the one before, ``(tasks,)``, positive.
        temperature: :math:`T`.

    Shape: ``(tasks,), (tasks,) -> (tasks,)``.

    Source: Liu, Johns and Davison 2019, arXiv:1803.10704, equation 7. Departs from it: no.

    >>> dwa_weights(torch.tensor([0.9, 0.1]), torch.ones(2), 2.0)
    tensor([1.1974, 0.8026])
    """
    return len(losses) * (losses / previous / temperature).softmax(0)

"""FAMO: fast adaptive multitask optimization, from losses before and after a step alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from athena_multitask._adam_step import adam_step
from athena_multitask._task_weighting import Rows, TaskWeighting


class FAMO(TaskWeighting):
    r"""Weights that make all losses fall at a like rate, in constant space and time.

    .. math:: L = \sum_i w_i L_i, \qquad w_i = \frac{c\, z_i}{L_i}, \quad z = \mathrm{softmax}(\xi), \quad
        c = \Bigl(\sum_j \frac{z_j}{L_j}\Bigr)^{-1}

    The logits :math:`\xi` move by how much the step changed each loss **on the same batch**. So a step has
    five parts: forward, ``famo(losses).backward()``, ``optimizer.step()``, forward of the same batch under
    ``no_grad`` (with the same dropout, where there is some), ``famo.update(losses_after)``. All that is
    remembered is in ``state_dict()``, between a call and its update too.

    It is a weighting and no balancer: it needs the losses, and no gradient of a task.

    Args:
        tasks: see `TaskWeighting`.
        lr: of the logits.
        decay: :math:`\gamma`, which draws the logits to 0, equal weights.

    Shape: losses ``()``, the result ``()``.

    Raises ValueError for a rate or decay outside its range, or losses that are not positive; RuntimeError for
    a call of training before the `update` of the last one, and an `update` without a call; else see
    `TaskWeighting`.

    Source: Liu et al. 2023, arXiv:2306.03792, algorithm 1. Departs from it: the logits take steps of Adam,
    where algorithm 1 has plain ones; the value is :math:`\sum_i w_i L_i = c`, with the gradient of the
    paper's :math:`c \sum_i z_i \log L_i`.

    >>> weight = torch.nn.Parameter(torch.tensor([3.0, 1.0]))
    >>> optimizer, famo = torch.optim.SGD([weight], lr=0.1), FAMO(["depth", "segment"])
    >>> def losses():
    ...     return dict(zip(famo.tasks, weight.square(), strict=True))
    >>> famo(losses()).backward()
    >>> optimizer.step()
    >>> famo.update(losses())
    >>> famo.logits  # the first fell less
    tensor([ 0.0250, -0.0250])
    """

    takes_missing = False
    domain = "positive"
    logits: Tensor
    moments: Tensor
    before: Tensor

    def __init__(self, tasks: Iterable[str], *, lr: float = 0.025, decay: float = 0.01) -> None:
        super().__init__(tasks)
        if not 0 < lr < math.inf or not 0 <= decay < math.inf:
            raise ValueError(
                f"`lr` must be positive, `decay` at least 0, both finite; got {lr} and {decay}. "
                "Take 0.025 and 0.01."
            )
        self.lr, self.decay = lr, decay
        zeros = torch.zeros(len(self.tasks))
        self.register_buffer("logits", zeros)
        self.register_buffer("moments", torch.stack((zeros, zeros)))
        self.steps, self.waits = 0, False
        self.register_buffer("before", zeros.clone())  # log-losses that `update` waits to be compared with

    def combine(self, losses: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:  # noqa: ARG002 (every task is there)
        """The weighted sum, and the weights."""
        logs = (self.averaged(losses.detach()) if self.learning else losses.detach()).log()
        weights = famo_weights(self.logits.to(losses), logs)
        if self.learning:
            if self.waits:
                raise RuntimeError(
                    "`update` must be called between two calls of training, with the losses of the same "
                    "batch after the step; it was not. Call it, or `eval()` for a call that trains nothing."
                )
            self.before.copy_(logs)
            self.waits = True
        return (weights * losses).sum(), weights

    @torch.no_grad()
    def update(self, losses: Mapping[str, Tensor]) -> None:
        """Move the logits, given the losses of the same batch after the optimizer's step."""
        if not self.waits:
            raise RuntimeError(
                "`update` must follow a call of training; there was none. Call the weighting in `train()`."
            )
        after = self.averaged(self.stacked(losses)[0]).log().to(self.before)
        self.steps += 1
        gradient = famo_gradient(self.logits, self.before, after)
        logits, moments = adam_step(
            self.logits, gradient, self.moments, self.steps, lr=self.lr, decay=self.decay
        )
        self.logits.copy_(logits)
        self.moments.copy_(moments)
        self.waits = False

    def get_extra_state(self) -> dict[str, Any]:
        """The names, the count of steps, and whether `update` is waited for."""
        return {**super().get_extra_state(), "steps": self.steps, "waits": self.waits}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_extra_state` gave."""
        super().set_extra_state(state)
        self.steps, self.waits = state["steps"], state["waits"]


def famo_weights(logits: Tensor, log_losses: Tensor) -> Tensor:
    r"""Weights of the losses whose direction makes their logarithms fall as :math:`z` says.

    .. math:: w_i = \frac{z_i / L_i}{\sum_j z_j / L_j} = \mathrm{softmax}(\xi - \log L)_i,
        \qquad z = \mathrm{softmax}(\xi)

    Shape: ``(tasks,), (tasks,) -> (tasks,)``.

    Source: Liu et al. 2023, arXiv:2306.03792, algorithm 1. Departs from it: no.

    >>> famo_weights(torch.zeros(2), torch.tensor([3.0, 1.0]).log())
    tensor([0.2500, 0.7500])
    """
    return (logits - log_losses).softmax(0)


def famo_gradient(logits: Tensor, before: Tensor, after: Tensor) -> Tensor:
    r"""The gradient of the logits, from logarithms of the losses before and after a step.

    .. math:: \delta = \Bigl(\frac{\partial z}{\partial \xi}\Bigr)^\top (\log L_t - \log L_{t+1})
        = z \odot \bigl(d - z^\top d\bigr), \qquad d = \log L_t - \log L_{t+1}

    Shape: ``(tasks,), (tasks,), (tasks,) -> (tasks,)``.

    Source: Liu et al. 2023, arXiv:2306.03792, algorithm 1. Departs from it: no.

    >>> famo_gradient(torch.zeros(2), torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.6]))
    tensor([ 0.1500, -0.1500])
    """
    shares, fell = logits.softmax(0), before - after
    return shares * (fell - (shares * fell).sum())

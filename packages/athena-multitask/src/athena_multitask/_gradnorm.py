"""GradNorm: weights that bring the norms of the tasks' gradients to a common scale, at a common pace."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from athena_multitask._adam_step import adam_step
from athena_multitask._loss_graph import nodes_of
from athena_multitask._task_weighting import Rows, TaskWeighting

_LEAST = 1e-4  # of a weight: a negative one would turn the task around, and the sign of its own gradient


class GradNorm(TaskWeighting):
    r"""Weights that draw each task's gradient norm to the mean, times how far its training lags behind.

    .. math:: L = \sum_i w_i L_i, \qquad w \leftarrow n\,\frac{w'}{\sum_j w'_j}, \quad
        w' = \mathrm{Adam}(w, \nabla_w L_\text{grad})

    with :math:`\nabla_w L_\text{grad}` of `gradnorm_gradient`. A call of training returns the loss with the
    weights as they are, then differentiates each task's loss once for ``shared`` and moves the weights, which
    count from the next call on. So ``gradnorm(losses).backward()`` is all there is to call; the weights have
    an optimizer of their own, no parameter of which enters the user's. In ``eval()`` or under ``no_grad``
    nothing moves. The weights, the state of Adam and the first losses :math:`L(0)` are in ``state_dict()``.

    Take for ``shared`` the last layer that all tasks share, as the paper does: a step costs one more gradient
    of this layer, and of what lies above it, for each task. No gradient is written to ``.grad``, and no hook
    of ``DistributedDataParallel`` runs; norms and losses are averaged over the processes. Leave out its
    ``static_graph=True``: it would take this for the first backward pass, and average no gradient any more.

    Args:
        tasks: see `TaskWeighting`.
        shared: parameters whose gradients are compared; those that are frozen are left out.
        alpha: how strongly tasks that lag behind are drawn forward; 0 makes all norms equal.
        lr: of the weights.

    Shape: losses ``()``, the result ``()``.

    Raises ValueError for no shared parameter, an ``alpha`` or rate outside its range, a loss that does not
    depend on ``shared``, is negative, is 0 at first, or comes through a static graph; else see
    `TaskWeighting`.

    Source: Chen et al. 2018, arXiv:1711.02257, equations 1 and 2 and algorithm 1. Departs from it: weights
    are kept above 1e-4 before they are scaled to their sum.

    >>> layer = torch.nn.Linear(1, 2, bias=False)
    >>> gradnorm = GradNorm(["depth", "segment"], shared=layer.parameters(), alpha=0.0, lr=0.1)
    >>> for _ in range(2):
    ...     depth, segment = layer(torch.ones(1)).exp() * torch.tensor([10.0, 1.0])
    ...     gradnorm({"depth": depth, "segment": segment}).backward()
    >>> gradnorm.weights  # the gradient of the first was the longer one
    tensor([0.9000, 1.1000])
    """

    takes_missing = False
    domain = "nonnegative"
    balance: Tensor
    moments: Tensor
    initial: Tensor

    def __init__(
        self, tasks: Iterable[str], *, shared: Iterable[Tensor], alpha: float = 1.5, lr: float = 0.025
    ) -> None:
        super().__init__(tasks)
        # A parameter given in place of some would be iterated over: its rows are no leaves.
        self.shared = tuple(dict.fromkeys(one for one in shared if one.requires_grad and one.is_leaf))
        if not self.shared:
            raise ValueError(
                "`shared` must hold a parameter that requires a gradient; got none. "
                "Give `last_shared_layer.parameters()`."
            )
        if not 0 <= alpha < math.inf or not 0 < lr < math.inf:
            raise ValueError(
                f"`alpha` must be at least 0, `lr` positive, both finite; got {alpha} and {lr}. "
                "Take 1.5 and 0.025."
            )
        self.alpha, self.lr = alpha, lr
        ones = torch.ones(len(self.tasks))
        self.register_buffer("balance", ones)
        self.register_buffer("moments", torch.zeros(2, len(ones)))
        self.steps, self._looked = 0, False
        self.register_buffer("initial", torch.zeros_like(ones))  # 0: not seen yet

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum; in training, the weights move after it."""
        loss = super().forward(losses)
        if self.learning:
            self._move([losses[name] for name in self.tasks])
        return loss

    def combine(self, losses: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:  # noqa: ARG002 (every task is there)
        """The weighted sum, and the weights."""
        weights = self.balance.to(losses, copy=True)  # autograd keeps them, and the buffer moves
        return (weights * losses).sum(), weights

    def _move(self, losses: Sequence[Tensor]) -> None:
        if not self._looked:
            _refuse_static_graph(losses)
            self._looked = True
        norms = gradient_norms(dict(zip(self.tasks, losses, strict=True)), self.shared)
        values = torch.stack([loss.detach() for loss in losses])
        norms, values = self.averaged(torch.stack((norms, values.to(norms)))).to(self.balance)
        if not self.steps:
            self._begin(values)
        self.steps += 1
        gradient = gradnorm_gradient(self.balance, norms, values, self.initial, self.alpha)
        weights, moments = adam_step(self.balance, gradient, self.moments, self.steps, lr=self.lr)
        self.balance.copy_(scaled_to_count(weights))
        self.moments.copy_(moments)

    def _begin(self, values: Tensor) -> None:
        for name, value in zip(self.tasks, values.tolist(), strict=True):
            if value == 0:
                raise ValueError(
                    f"`losses[{name!r}]` must be positive at first, as later ones are measured by it; got 0. "
                    "Start from a model that is not perfect."
                )
        self.initial.copy_(values)

    def get_extra_state(self) -> dict[str, Any]:
        """The names, and the count of steps."""
        return {**super().get_extra_state(), "steps": self.steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_extra_state` gave."""
        super().set_extra_state(state)
        self.steps = state["steps"]


def gradient_norms(losses: Mapping[str, Tensor], shared: Sequence[Tensor]) -> Tensor:
    r"""Norms :math:`\|\nabla_\theta L_i\|` over all shared parameters together, ``(tasks,)``.

    Raises ValueError for a loss that depends on none of them.

    >>> weight = torch.ones(4, requires_grad=True)
    >>> gradient_norms({"a": 3 * weight.sum()}, [weight])
    tensor([6.])
    """
    norms, trained = [], [parameter for parameter in shared if parameter.requires_grad]
    for name, loss in losses.items():
        known = loss.requires_grad and trained
        found = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True) if known else ()
        gradients = [gradient for gradient in found if gradient is not None]
        if not gradients:
            raise ValueError(
                f"`losses[{name!r}]` must depend on a parameter of `shared`; got a loss of none of them. "
                "Give a layer that all tasks share."
            )
        norms.append(torch.nn.utils.get_total_norm(gradients))
    return torch.stack(norms)


def _refuse_static_graph(losses: Sequence[Tensor]) -> None:
    for node in nodes_of(losses):
        model = getattr(node, "ddp_weakref", None)  # of what `DistributedDataParallel` puts at its outputs
        if model is not None and model().static_graph:
            raise ValueError(
                "`losses` must not come through `DistributedDataParallel` with `static_graph=True`, which "
                "would average no gradient any more; got such ones. Take `find_unused_parameters=True`."
            )


def gradnorm_gradient(
    weights: Tensor, norms: Tensor, losses: Tensor, initial: Tensor, alpha: float
) -> Tensor:
    r"""The gradient of the weights by GradNorm's loss, whose targets are constants.

    .. math:: L_\text{grad} = \sum_i \bigl| G_i - \bar G\, r_i^\alpha \bigr|, \qquad
        \nabla_{w_i} L_\text{grad} = \mathrm{sign}\bigl(G_i - \bar G\, r_i^\alpha\bigr) \|\nabla_\theta L_i\|

    .. math:: G_i = w_i \|\nabla_\theta L_i\|, \quad \bar G = \tfrac1n \sum_j G_j, \quad
        r_i = \frac{\tilde L_i}{\tfrac1n \sum_j \tilde L_j}, \quad \tilde L_i = \frac{L_i(t)}{L_i(0)}

    No second derivative is needed, since :math:`G_i` is linear in :math:`w_i`.

    Args:
        weights: positive, ``(tasks,)``.
        norms: of the gradients of the losses without their weights, ``(tasks,)``.
        losses, initial: now, and at first, ``(tasks,)``.
        alpha: the strength of the pull.

    Shape: ``(tasks,)`` each ``-> (tasks,)``.

    Source: Chen et al. 2018, arXiv:1711.02257, equations 1 and 2. Departs from it: where all losses are 0,
    none lags behind.

    >>> ones = torch.ones(2)
    >>> gradnorm_gradient(ones, torch.tensor([3.0, 1.0]), ones, ones, 1.5)
    tensor([ 3., -1.])
    """
    shares = losses / initial
    mean = shares.mean()
    rates = torch.where(mean > 0, shares / mean, 1.0)
    scaled = weights * norms
    return (scaled - scaled.mean() * rates**alpha).sign() * norms


def scaled_to_count(weights: Tensor) -> Tensor:
    """Weights in the same proportions whose sum is their number; those below 1e-4 are raised to it first.

    >>> scaled_to_count(torch.tensor([3.0, 1.0]))
    tensor([1.5000, 0.5000])
    """
    weights = weights.clamp(min=_LEAST)
    return weights * (len(weights) / weights.sum())

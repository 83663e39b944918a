"""MAML++."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from athena_meta._batch_norm import batch_norms
from athena_meta._descent import checked_rate
from athena_meta._episodes import Episodes
from athena_meta._inner_update import Tensors
from athena_meta._layerwise_descent import LayerwiseDescent
from athena_meta._maml import MAML
from athena_meta._modes import Way
from athena_meta._per_step_batch_norm import PerStepBatchNorm, batch_norms_by_name
from athena_meta._tasks import Tasks


class MAMLPlusPlus(MAML):
    r"""MAML made stable: a loss at every step, learned rates, batch norm by step, first order at first.

    .. math:: \min_\theta \frac{1}{n} \sum_i \sum_{t=1}^{T} v_t L^{\mathrm{query}}_i(\phi_{i,t}), \qquad
        v_t = \frac{1}{T} \max\Big(0, 1 - \frac{e}{E}\Big) \text{ for } t < T, \quad
        v_T = 1 - \sum_{t<T} v_t

    with the epoch :math:`e` and :math:`E =` ``multi_step_epochs``: at first all steps count alike, from epoch
    :math:`E` on the last alone. Inner rates are learned, one for each layer and step
    (:class:`LayerwiseDescent`). Batch norms have weights of their own after each number of steps, which the
    outer loss trains and adaptation leaves alone.

    Call :meth:`advance` at the end of each epoch; the learner cannot know how many batches one has. The epoch
    is in the ``state_dict``. The cosine schedule of the outer rate in the paper belongs to your optimizer:
    ``torch.optim.lr_scheduler.CosineAnnealingLR``.

    Args:
        network: any module of one input.
        inner_lr: where all inner rates start.
        inner_steps: :math:`T`, at least 1.
        multi_step_epochs: :math:`E`; 0: the loss after the last step alone.
        first_order_epochs: in so many epochs the gradient is of first order, afterwards of second.
        per_step_batch_norm: weights by step; otherwise those of batch norm are adapted as all others. Those
            of the earlier steps are reached by second order or by the losses of these steps; without both,
            DistributedDataParallel needs ``find_unused_parameters=True``.
        running_statistics: in evaluation mode queries are normalised by running statistics, gathered for each
            number of steps by :meth:`loss` in training mode; in training mode, and for support sets, batches
            are, as ``transductive`` says.
        adapted: patterns of names of the parameters that are adapted.
        options: the others of :class:`MAML`, such as ``transductive``.

    Raises what :class:`MAML` raises; ValueError for no inner steps, negative epochs, and running statistics
    without batch norms by step that have them.
    Source: Antoniou et al. 2019, arXiv:1810.09502, section 4. Departs from it: the importances fall linearly
    to zero; the parameters after t steps have row t of the batch norms' weights in support and query set
    alike; running statistics are an option.

    >>> import torch.nn.functional as F
    >>> from athena_meta import Episodes
    >>> meta = MAMLPlusPlus(nn.Linear(3, 2), inner_lr=0.1, inner_steps=2, multi_step_epochs=2)
    >>> x, y = torch.randn(4, 6, 3), torch.arange(6).expand(4, 6) % 2
    >>> meta.loss(Episodes(x, y, x, y)).backward()
    >>> meta.importances()
    [0.5, 0.5]
    >>> meta.advance()
    >>> meta.importances()
    [0.25, 0.75]
    """

    epoch: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 5,
        multi_step_epochs: int = 10,
        first_order_epochs: int = 0,
        per_step_batch_norm: bool = True,
        running_statistics: bool = False,
        adapted: Sequence[str] = ("*",),
        **options: Any,
    ) -> None:
        for name, value, least in (
            ("inner_steps", inner_steps, 1),
            ("multi_step_epochs", multi_step_epochs, 0),
            ("first_order_epochs", first_order_epochs, 0),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}; got {value}.")
        if running_statistics and not (per_step_batch_norm and batch_norms(network)):
            raise ValueError(
                "`running_statistics` must be False without batch norms by step; got True. Pass "
                "per_step_batch_norm=True and a network with batch norm."
            )
        patterns = (adapted,) if isinstance(adapted, str) else tuple(adapted)
        super().__init__(
            network,
            inner=LayerwiseDescent(checked_rate("inner_lr", inner_lr)),
            inner_steps=inner_steps,
            adapted=_without_batch_norms(network, patterns) if per_step_batch_norm else patterns,
            **options,
        )
        self.multi_step_epochs, self.first_order_epochs = multi_step_epochs, first_order_epochs
        norms = batch_norms_by_name(network) if per_step_batch_norm else {}
        self.norms = PerStepBatchNorm(norms, steps=inner_steps, running=running_statistics)
        self.register_buffer("epoch", torch.tensor(0))

    def advance(self) -> None:
        """Begin the next epoch."""
        self.epoch += 1

    def importances(self) -> list[float]:
        """:math:`v_1, \\ldots, v_T` in this epoch."""
        ahead = 1 - int(self.epoch) / self.multi_step_epochs if self.multi_step_epochs else 0.0
        each = max(0.0, ahead) / self.inner_steps
        return [*[each] * (self.inner_steps - 1), 1 - each * (self.inner_steps - 1)]

    @property
    def order(self) -> int:
        """Of the outer gradient in this epoch."""
        return min(super().order, 1) if int(self.epoch) < self.first_order_epochs else super().order

    def task_losses(self, tasks: Tasks) -> Tensor:
        importances = [0.0, *self.importances()]
        # Not in the backward pass, where checkpointing does steps again.
        with self.norms.gathering() if self._gathers() else nullcontext():
            losses = [
                importances[step] * tasks.query_losses(adapted, step=step)
                for step, adapted in enumerate(self.trajectory(tasks))
                if importances[step]
            ]
        return torch.stack(losses).sum(0)

    def support_outputs(self, values: Tensors, x: Tensor, *, step: int) -> Tensor:
        with self.norms.watching(self.network, step):
            return super().support_outputs(self.norms.at(values, step), x, step=step)

    def query_outputs(self, values: Tensors, support_x: Tensor, x: Tensor, *, step: int) -> Tensor:
        if self.norms.running and not self.training:
            values = self.norms.at(values, step, running=True)
            return functional_call(self.network, values, (x,), tie_weights=False)
        if self.transductive:
            return self.support_outputs(values, x, step=step)
        with self.norms.watching(self.network, step):
            return super().query_outputs(self.norms.at(values, step), support_x, x, step=step)

    def outer_tensors(self) -> Tensors:
        return self.norms.outer_tensors()

    def settle(self, network: nn.Module, support_x: Tensor, *, step: int) -> None:
        self.norms.copy_into(network, step)
        if not self.norms.running:
            super().settle(network, support_x, step=step)

    def loss(self, episodes: Episodes) -> Tensor:
        """The mean over the tasks of their losses at all steps, each by its importance."""
        loss = super().loss(episodes)
        if self._gathers():
            self.norms.commit()
        return loss

    def _loss_by(self, way: Way, episodes: Episodes) -> Tensor:
        if self._gathers():
            self.norms.begin()  # ways are tried on the same episodes, which count once
        return super()._loss_by(way, episodes)

    def _gathers(self) -> bool:
        return self.norms.running and self.training and torch.is_grad_enabled()


def _without_batch_norms(network: nn.Module, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The names that match, without those of batch norms. Raises ValueError if there are none."""
    theirs = {id(parameter) for norm in batch_norms(network) for parameter in norm.parameters()}
    names = tuple(
        name
        for name, parameter in network.named_parameters()
        if id(parameter) not in theirs and any(fnmatchcase(name, pattern) for pattern in patterns)
    )
    if not names:
        raise ValueError(
            "`adapted` must match a parameter that is no batch norm's, whose weights are learned by step; "
            f"got {patterns!r}. Pass per_step_batch_norm=False to adapt batch norms."
        )
    return names

"""Reptile."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_meta._descent import Descent, checked_rate
from athena_meta._episodes import Episodes
from athena_meta._gradient_learner import GradientLearner, Loss
from athena_meta._inner_loop import inner_step
from athena_meta._inner_update import InnerUpdate, Tensors
from athena_meta._modes import Mode, Way
from athena_meta._persistent_state import PersistentState
from athena_meta._tasks import Tasks


class Reptile(GradientLearner):
    r"""Moves the start towards where ordinary training on each task ends.

    .. math:: g = \frac{1}{n} \sum_i (\theta - \phi_{i,T}), \qquad
        \phi_{i,t+1} = U(\phi_{i,t}, \nabla L_{i,t}(\phi_{i,t}))

    :math:`g` is the gradient of :meth:`loss`, so that any optimizer can step on it; ``SGD(lr=epsilon)`` is
    the paper's :math:`\theta \leftarrow \theta + \epsilon (\phi - \theta)`. It is the derivative of no
    loss: the value of :meth:`loss` is the mean loss on the query sets at :math:`\phi_T`, which only tells how
    training goes.

    Training has no use for two sets, and runs the inner loop on support and query set together, so that it
    takes episodes with more shots than those of the evaluation. Predictions adapt to the support set alone.

    Args:
        network: any module of one input. Parameters that are not to be trained need ``requires_grad`` False.
        inner_lr: of plain descent.
        inner_steps: :math:`T`. The paper takes more at evaluation: ``predict_by_step(episodes, steps)``.
        minibatch: examples of each inner step: the next of a shuffled set, which is shuffled again when it is
            used up. None, or more than there are: all. In training mode the order comes from torch's
            generator, in evaluation mode it is a fixed one.
        loss: of the outputs and targets of one task, their mean.
        transductive: see :class:`GradientLearner`, as of all below. A network with batch norm needs it.
        inner: another inner update, in the place of plain descent; in the paper
            ``InnerAdam(0.001, betas=(0.0, 0.999))``.
        persistent: the inner update's state (Adam's moments) goes on from task to task in training, and
            evaluation starts each task from it and leaves it as it is; else each task starts from zeros. Each
            :meth:`loss` with gradients, in training mode, moves it on; ``state_dict`` has it. The paper's
            code comes to its tasks one after the other; in a batch all start from one state, and the mean of
            their last ones is kept. Under DistributedDataParallel every process goes on from the first one's.
        mode: "auto", "vmap" or "loop".
        chunk_size: tasks in one vmap, at most.
        memory_budget: in bytes, in the place of ``chunk_size``.

    Raises what :class:`MAML` raises; ValueError for a minibatch below 1 and a persistent state where the
    inner update has none.
    Source: Nichol et al. 2018, arXiv:1803.02999, algorithm 1 and section 6.1, with the state and minibatches
    of its code. Departs from it: the mean over a batch of tasks, and what a batch does to the state.

    >>> meta = Reptile(nn.Linear(3, 2), inner_lr=0.1, inner_steps=5, minibatch=4)
    >>> x, y = torch.randn(4, 6, 3), torch.arange(6).expand(4, 6) % 2
    >>> meta.loss(Episodes(x, y, x, y)).backward()
    >>> torch.optim.SGD(meta.parameters(), lr=0.5).step()
    """

    EXPLICIT = True

    def __init__(
        self,
        network: nn.Module,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 5,
        minibatch: int | None = None,
        loss: Loss = F.cross_entropy,
        transductive: bool | None = None,
        inner: InnerUpdate | None = None,
        persistent: bool = False,
        mode: Mode = "auto",
        chunk_size: int | None = None,
        memory_budget: int | None = None,
    ) -> None:
        if minibatch is not None and minibatch < 1:
            raise ValueError(f"`minibatch` must be at least 1, or None for all examples; got {minibatch}.")
        super().__init__(
            network,
            inner=Descent(checked_rate("inner_lr", inner_lr)) if inner is None else inner,
            inner_steps=inner_steps,
            first_order=True,
            loss=loss,
            transductive=transductive,
            mode=mode,
            chunk_size=chunk_size,
            memory_budget=memory_budget,
        )
        self.minibatch = minibatch
        self.persistent = PersistentState(self.inner, self.adapted_parameters()) if persistent else None

    def trajectory(self, tasks: Tasks, steps: int | None = None) -> Iterator[Tensors]:
        """The adapted parameters before and after each step, on the support sets of ``tasks``."""
        for parameters, _ in self._states(tasks, self.inner_steps if steps is None else steps):
            yield parameters

    def task_losses(self, tasks: Tasks) -> Tensor:
        end, _ = deque(self._states(_pooled(tasks), self.inner_steps), maxlen=1).pop()
        return tasks.query_losses(end, step=self.inner_steps)

    def losses_and_gradients(self, tasks: Tasks) -> tuple[Tensor, list[Tensor | None]]:
        tasks = tasks.repeated({}, order=0)
        start = tasks.initial()
        end, state = deque(self._states(_pooled(tasks), self.inner_steps), maxlen=1).pop()
        with torch.no_grad():
            losses = tasks.query_losses(end, step=self.inner_steps)
            moved = {name: start[name] - value for name, value in end.items()}
            if self.persistent is not None:
                self.persistent.add(state, count=tasks.count)
        found = {
            id(tasks.adapted[name]): value.sum(0) if tasks.stacked else value for name, value in moved.items()
        }
        return losses, [found.get(id(parameter)) for parameter in self.trained()]

    def loss(self, episodes: Episodes) -> Tensor:
        """The mean query loss after adaptation to support and query sets, with Reptile's gradient."""
        loss = super().loss(episodes)
        if self.persistent is not None and self.training and torch.is_grad_enabled():
            self.persistent.commit(steps=self.inner_steps)
        return loss

    def _loss_by(self, way: Way, episodes: Episodes) -> Tensor:
        if self.persistent is not None:
            self.persistent.begin()  # ways are tried on the same episodes, which count once
        return super()._loss_by(way, episodes)

    def _states(self, tasks: Tasks, steps: int) -> Iterator[tuple[Tensors, Tensors]]:
        parameters = tasks.initial()
        state, first = self.inner.start(parameters), 0
        if self.persistent is not None:
            state, first = self.persistent.restored(state), int(self.persistent.steps)
        yield parameters, state
        for step, batch in enumerate(self._batches(tasks, steps)):
            parameters, state = inner_step(batch, self.inner, parameters, state, first + step)
            yield parameters, state

    def _batches(self, tasks: Tasks, steps: int) -> Iterator[Tasks]:
        """The tasks with the examples of each step in the place of their support sets."""
        x, y = (part if tasks.stacked else part.unsqueeze(0) for part in (tasks.support_x, tasks.support_y))
        n_support = x.shape[1]
        if self.minibatch is None or self.minibatch >= n_support or not steps:
            yield from (tasks for _ in range(steps))
            return
        turns = -(-steps * self.minibatch // n_support)
        # Drawn task after task, so that chunks draw what all tasks together do.
        orders = torch.stack([self._order(n_support, turns) for _ in range(tasks.count)]).to(x.device)
        task = torch.arange(tasks.count, device=x.device).unsqueeze(1)
        for chosen in orders.split(self.minibatch, dim=1)[:steps]:
            parts = (part[task, chosen] for part in (x, y))
            yield _with_support(tasks, *(part if tasks.stacked else part[0] for part in parts))

    def _order(self, n_support: int, turns: int) -> Tensor:
        generator = None if self.training else torch.Generator().manual_seed(0)
        return torch.cat([torch.randperm(n_support, generator=generator) for _ in range(turns)])


def _pooled(tasks: Tasks) -> Tasks:
    """The tasks with support and query sets together as their support sets."""
    axis = int(tasks.stacked)
    return _with_support(
        tasks,
        torch.cat([tasks.support_x, tasks.query_x], dim=axis),
        torch.cat([tasks.support_y, tasks.query_y], dim=axis),
    )


def _with_support(tasks: Tasks, support_x: Tensor, support_y: Tensor) -> Tasks:
    other = copy(tasks)
    other.support_x, other.support_y = support_x, support_y
    return other

"""Learners that adapt by gradient steps: what MAML and its relatives share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from athena_meta._batch_norm import (
    BatchNormMode,
    Statistics,
    batch_norms,
    by_batch,
    recording,
    replaying,
    settle_batch_norms,
)
from athena_meta._episodes import Episodes
from athena_meta._explicit_gradient import with_gradients
from athena_meta._gradient_checks import (
    checked_adapted,
    checked_episodes,
    checked_network,
    checked_steps,
    refuse_compiled,
    refuse_divergence,
    refuse_other_types,
)
from athena_meta._inner_loop import inner_loop
from athena_meta._inner_update import InnerUpdate, Tensors
from athena_meta._labels import ranked, support_tensor
from athena_meta._learner import FewShotLearner, Labels
from athena_meta._modes import Chosen, Mode, Modes, Way
from athena_meta._tasks import Tasks

Loss = Callable[[Tensor, Tensor], Tensor]


class GradientLearner(FewShotLearner):
    r"""Adapts to a task by gradient steps on its support set, all tasks at once.

    A subclass says what the loss of a batch of tasks is, in :meth:`task_losses`, mostly from
    :meth:`trajectory`; whether the tasks are stacked in one vmap or come one by one it need not know. One
    whose gradient is no derivative of its loss gives it in :meth:`losses_and_gradients`, with ``EXPLICIT``.

    Args:
        network: any module of one input.
        inner: the step of the inner loop.
        inner_steps: how many of them.
        first_order: inner gradients are constants of the outer derivative.
        loss: of outputs and targets of one task, their mean.
        transductive: what batch norm uses for a query set, in training and evaluation mode alike: the
            statistics of the query set itself (True), so that a prediction depends on the other queries, or
            those of the support set under the same parameters (False). A network with batch norm needs it.
        adapted: patterns, as of ``fnmatch``, of the names of parameters that are adapted.
        mode: "vmap": tasks in one vmap; "loop": one by one; "auto": the faster, measured once for each shape
            of episodes, and "loop" with a warning where vmap cannot take the network.
        chunk_size: at most so many tasks in one vmap.
        memory_budget: in bytes of tensors kept for the backward pass, in the place of a chunk's size. It is
            measured on one task alone; in one vmap each has weights of its own, which shows in large ones.
        checkpoint_steps: at second order, keep the parameters of each step alone and redo it when going back.

    In chunks and loops, and with batch norm at second order, the gradient is computed with the loss, by
    ``loss()``; ``backward()`` hands it out, and has no derivative of its own.

    >>> from athena_meta import MAML
    >>> issubclass(MAML, GradientLearner)
    True
    """

    EXPLICIT = False

    def __init__(
        self,
        network: nn.Module,
        *,
        inner: InnerUpdate,
        inner_steps: int = 5,
        first_order: bool = False,
        loss: Loss = F.cross_entropy,
        transductive: bool | None = None,
        adapted: Sequence[str] = ("*",),
        mode: Mode = "auto",
        chunk_size: int | None = None,
        memory_budget: int | None = None,
        checkpoint_steps: bool = False,
    ) -> None:
        super().__init__()
        inner_steps = checked_steps("inner_steps", inner_steps)
        if not isinstance(inner, InnerUpdate):
            raise TypeError(f"`inner` must be an InnerUpdate; got {inner!r}. Pass one, as InnerAdam().")
        if not callable(loss):
            raise TypeError(
                f"`loss` must be a function of outputs and targets; got {loss!r}. Pass one, as F.mse_loss."
            )
        self.network, self.inner, self.task_loss = network, inner, loss
        self.inner_steps, self.first_order, self.checkpoint_steps = inner_steps, first_order, checkpoint_steps
        self.adapted = (adapted,) if isinstance(adapted, str) else tuple(adapted)
        self.transductive = transductive
        self.modes = Modes(mode, chunk_size=chunk_size, memory_budget=memory_budget)
        checked_network(network, transductive=transductive)
        checked_adapted(self.adapted_parameters(), self.adapted)
        inner.prepare(self.adapted_parameters(), steps=inner_steps)

    @abstractmethod
    def task_losses(self, tasks: Tasks) -> Tensor:
        """The loss of each task ``(tasks,)``, or of the only one ``()``; their mean is minimised."""

    def losses_and_gradients(self, tasks: Tasks) -> tuple[Tensor, list[Tensor | None]]:
        """:meth:`task_losses` and the gradient of their sum for each of :meth:`trained`."""
        losses = self.task_losses(tasks)
        if not losses.requires_grad:
            return losses, [None] * len(self.trained())
        gradients = torch.autograd.grad(losses.sum(), self.trained(), allow_unused=True)
        return losses.detach(), list(gradients)

    def trajectory(self, tasks: Tasks, steps: int | None = None) -> Iterator[Tensors]:
        """The adapted parameters before and after each inner step."""
        steps = self.inner_steps if steps is None else checked_steps("steps", steps)
        return inner_loop(tasks, self.inner, steps, checkpoint=self.checkpoint_steps)

    def support_outputs(self, values: Tensors, x: Tensor, *, step: int) -> Tensor:  # noqa: ARG002
        """Outputs of the network with these parameters and buffers, on the support set of one task."""
        if not self._normalises():
            return functional_call(self.network, values, (x,), tie_weights=False)
        with BatchNormMode(by_batch):
            return functional_call(self.network, values, (x,), tie_weights=False)

    def query_outputs(self, values: Tensors, support_x: Tensor, x: Tensor, *, step: int) -> Tensor:
        """Likewise on its query set, after ``step`` steps."""
        if not self._normalises() or self.transductive:
            return self.support_outputs(values, x, step=step)
        kept: list[Statistics] = []
        with BatchNormMode(recording(kept)):
            functional_call(self.network, values, (support_x,), tie_weights=False)
        with BatchNormMode(replaying(kept)):
            return functional_call(self.network, values, (x,), tie_weights=False)

    def outer_tensors(self) -> Tensors:
        """More of what :meth:`support_outputs` and :meth:`query_outputs` find in ``values``, by names of no
        place in the network."""
        return {}

    @property
    def order(self) -> int:
        """Of the outer gradient: 2 or 1, or 0 where none is wanted."""
        if not torch.is_grad_enabled():
            return 0
        return 1 if self.first_order else 2

    @property
    def chosen(self) -> Chosen | None:
        """How the last batch of tasks was computed, and the measured seconds of each way that was tried."""
        return self.modes.chosen

    def adapted_parameters(self) -> Tensors:
        """Those that adaptation changes, by their names in the network; a tied one is there once."""
        return {
            name: parameter
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad and any(fnmatchcase(name, pattern) for pattern in self.adapted)
        }

    def trained(self) -> list[Tensor]:
        """What the outer optimizer changes: those of the network and of the inner update."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _normalises(self) -> bool:
        return bool(batch_norms(self.network))

    # In a compiled training step too: its second order would be without the inner derivatives.
    @torch._disable_dynamo
    def loss(self, episodes: Episodes) -> Tensor:
        """The mean over the tasks of their losses, with the meta-gradient."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "`loss` must not be called in inference mode, in which the inner loop has no gradients; use "
                "torch.no_grad()."
            )
        refuse_compiled(self.network, order=self.order)
        episodes = checked_episodes(episodes)
        kind = ("loss", self.order, self.training)
        return self._loss_by(self.modes.choose(kind, episodes, self._try_loss), episodes)

    def _try_loss(self, way: Way, episodes: Episodes) -> None:
        loss = self._loss_by(way, episodes)
        if self.order:
            torch.autograd.grad(loss, self.trained(), allow_unused=True)

    def _loss_by(self, way: Way, episodes: Episodes) -> Tensor:
        # The third derivative of batch norm is silently wrong (pytorch#186779): no graph of such a gradient.
        explicit = self.EXPLICIT or (self.order == 2 and self._normalises())
        if way == ("vmap", episodes.tasks) and not explicit:
            tasks = Tasks(self, episodes, stacked=True, order=self.order)
            losses = self.task_losses(tasks)
            refuse_divergence(tasks, losses)
            return losses.mean()
        trained, order = self.trained(), self.order
        sums: list[Tensor | None] = [None] * len(trained)
        total = 0
        for tasks in self._parts(way, episodes, order=order):
            losses, found = self.losses_and_gradients(tasks) if order else (self.task_losses(tasks), sums)
            refuse_divergence(tasks, losses)
            total = total + losses.sum()
            sums = [b if a is None else a if b is None else a + b for a, b in zip(sums, found, strict=True)]
        assert isinstance(total, Tensor)
        means = [None if gradient is None else gradient / episodes.tasks for gradient in sums]
        return with_gradients(total / episodes.tasks, means, trained)

    def _parts(self, way: Way, episodes: Episodes, *, order: int) -> Iterator[Tasks]:
        for number, part in enumerate(episodes.split(way.chunk)):
            yield Tasks(self, part, stacked=way.mode == "vmap", order=order, first=number * way.chunk)

    def predict(self, episodes: Episodes) -> Tensor:
        """Outputs on the query sets ``(tasks, n_query, outputs)``, after all inner steps."""
        return self._predict(episodes, self.inner_steps, every_step=False)[0]

    def predict_by_step(self, episodes: Episodes, steps: int | None = None) -> Tensor:
        """Outputs before and after each inner step ``(steps + 1, tasks, n_query, outputs)``.

        Args:
            steps: more or fewer than the ``inner_steps`` of the training.
        """
        return self._predict(episodes, self.inner_steps if steps is None else steps, every_step=True)

    def _predict(self, episodes: Episodes, steps: int, *, every_step: bool) -> Tensor:
        def run(way: Way, episodes: Episodes) -> Tensor:
            parts = []
            for tasks in self._parts(way, episodes, order=0):
                outputs = [
                    tasks.query_outputs(adapted, step=step)
                    for step, adapted in enumerate(self.trajectory(tasks, steps))
                    if every_step or step == steps
                ]
                made = torch.stack(outputs) if tasks.stacked else torch.stack(outputs).unsqueeze(1)
                # Minus infinity may be meant, as of a class that is masked.
                refuse_divergence(tasks, torch.where(made[-1].flatten(1).isnan().any(1), torch.nan, 0.0))
                parts.append(made)
            return torch.cat(parts, dim=1)

        refuse_other_types(episodes)
        # The inner loop needs gradients, which inference mode would not let it have.
        with torch.inference_mode(False), torch.no_grad():
            episodes = checked_episodes(Episodes(*map(_usable, episodes[:4])))
            return run(self.modes.choose(("predict", steps, self.training), episodes, run), episodes)

    def adapt(self, support_x: Tensor, support_y: Labels, *, steps: int | None = None) -> nn.Module:
        """A copy of the network, in evaluation mode, with the parameters adapted to one task.

        Its batch norms predict as the learner's do: by each batch's own statistics if ``transductive``, else
        by those of the support set, which are the running statistics of the copy.

        Args:
            support_x: inputs ``(n_support, ...)``.
            support_y: labels, as strings or whole numbers, or float targets ``(n_support, ...)``.
            steps: of adaptation; None: ``inner_steps``.
        """
        support_tensor(support_x)
        if isinstance(support_y, Tensor) and support_y.is_floating_point():
            targets, classes = support_y, None
        else:
            targets, classes = ranked(support_y)
        with torch.inference_mode(False), torch.no_grad():
            x, y = (_usable(part).unsqueeze(0) for part in (support_x, targets.to(support_x.device)))
            tasks = Tasks(self, checked_episodes(Episodes(x, y, x, y)), stacked=False, order=0)
            steps = self.inner_steps if steps is None else steps
            *_, adapted = self.trajectory(tasks, steps)
            refuse_divergence(tasks, tasks.support_losses(adapted, step=steps))
            network = deepcopy(self.network)
            own = dict(network.named_parameters())
            for name, value in adapted.items():
                own[name].copy_(value)
            self.settle(network.eval(), tasks.support_x, step=steps)
        if classes is not None:
            network.classes = classes  # type: ignore[assignment]
        return network

    def settle(self, network: nn.Module, support_x: Tensor, *, step: int) -> None:  # noqa: ARG002
        """Make the batch norms of a copy adapted in ``step`` steps do alone what they do for queries."""
        settle_batch_norms(network, support_x, transductive=bool(self.transductive))

    def extra_repr(self) -> str:
        return f"inner_steps={self.inner_steps}, first_order={self.first_order}, chosen={self.chosen}"


def _usable(part: Tensor) -> Tensor:
    """A tensor that autograd may keep, which it may not what was made in inference mode."""
    return part.clone() if part.is_inference() else part

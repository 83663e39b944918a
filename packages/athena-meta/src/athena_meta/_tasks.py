"""A batch of tasks as the inner loop sees it: stacked in one vmap, or one task by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from athena_meta._episodes import Episodes
from athena_meta._inner_update import Tensors
from athena_meta._padding import PaddingMode, may_pad

if TYPE_CHECKING:
    from athena_meta._gradient_learner import GradientLearner


class Tasks:
    """The tasks of some episodes, with what their losses are functions of.

    With ``stacked`` every tensor below has the task as its first axis and losses are ``(tasks,)``; without it
    there is one task, no such axis, and losses are scalars. Code that uses these methods need not know.

    Args:
        learner: whose network and loss are used.
        episodes: of one task, unless ``stacked``.
        stacked: all tasks in one vmap.
        order: of the gradient that is wanted of the result: 2, 1, or 0 for none.
        first: the number of the first task in the whole batch, for messages.
    """

    def __init__(
        self, learner: GradientLearner, episodes: Episodes, *, stacked: bool, order: int, first: int = 0
    ) -> None:
        self.learner, self.stacked, self.order, self.first = learner, stacked, order, first
        whole = episodes if stacked else Episodes(*(part[0] for part in episodes[:4]))
        self.support_x, self.support_y, self.query_x, self.query_y, _ = whole
        self.count = episodes.tasks
        labels = episodes.support_y
        self.n_way = int(labels.max()) + 1 if labels.ndim == 2 and not labels.is_floating_point() else 0
        self.adapted = learner.adapted_parameters()
        more = learner.outer_tensors()
        #: What adaptation leaves alone, buffers as copies, so that the network may write into them.
        self.shared = {
            name: tensor for name, tensor in learner.network.named_parameters() if name not in self.adapted
        } | {name: tensor.clone() for name, tensor in learner.network.named_buffers()}
        self.shared |= more
        self.places = _places(learner.network) | {name: name for name in more}
        #: The losses on the support sets after each number of steps, for messages.
        self.trace: list[Tensor] = []

    def initial(self) -> Tensors:
        """The learner's adapted parameters, one copy a task if stacked; without a graph for order 0."""
        start = self.adapted if self.order else {name: value.detach() for name, value in self.adapted.items()}
        if not self.stacked:
            return dict(start)
        return {name: value.expand(self.count, *value.shape) for name, value in start.items()}

    def trainable(self) -> Tensors:
        """The parameters that adaptation leaves alone and the outer gradient reaches."""
        return {name: tensor for name, tensor in self.shared.items() if tensor.requires_grad}

    def repeated(self, trainable: Tensors, *, order: int) -> Tasks:
        """The same tasks for another order, with other tensors in the place of :meth:`trainable`."""
        other = copy(self)
        other.order, other.shared = order, self.shared | trainable
        other.trace = [] if order else self.trace
        return other

    def support_losses(self, adapted: Tensors, *, step: int) -> Tensor:
        """The inner loss of each task, at parameters after ``step`` steps.

        Below second order the parameters that are not adapted are constants here: an inner gradient that is
        not differentiated has no use for their graph.
        """
        shared = self.shared
        if self.order < 2:
            shared = {name: tensor.detach() for name, tensor in shared.items()}

        def one(adapted: Tensors, x: Tensor, y: Tensor) -> Tensor:
            return self._scalar(self.learner.support_outputs(self._placed(shared | adapted), x, step=step), y)

        losses = self._each(one)(adapted, self.support_x, self.support_y)
        self.trace.append(losses.detach())
        return losses

    def query_losses(self, adapted: Tensors, *, step: int) -> Tensor:
        """The loss of each task on its query set, at parameters after ``step`` steps."""

        def one(adapted: Tensors, support_x: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return self._scalar(self._query_outputs(adapted, support_x, x, step), y)

        return self._each(one)(adapted, self.support_x, self.query_x, self.query_y)

    def query_outputs(self, adapted: Tensors, *, step: int) -> Tensor:
        """The outputs of each task on its query set ``(tasks, n_query, outputs)``."""

        def one(adapted: Tensors, support_x: Tensor, x: Tensor) -> Tensor:
            return self._query_outputs(adapted, support_x, x, step)

        outputs = self._each(one)(adapted, self.support_x, self.query_x)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"`network` must return one tensor to be predicted with; got {type(outputs).__name__}. "
                "Return the part that answers."
            )
        return outputs

    def _query_outputs(self, adapted: Tensors, support_x: Tensor, x: Tensor, step: int) -> Tensor:
        values = self._placed(self.shared | adapted)
        return self.learner.query_outputs(values, support_x, x, step=step)

    def _placed(self, values: Tensors) -> Tensors:
        return {place: values[name] for place, name in self.places.items()}

    def _each(self, one: Callable[..., Tensor]) -> Callable[..., Any]:
        if not self.stacked and self.order < 2:
            return one
        mapped = torch.vmap(one, randomness="different") if self.stacked else one
        pads = self.stacked and may_pad(self.learner.network, self.support_x)

        def each(*arguments: Any) -> Any:
            with _plain_attention(), PaddingMode() if pads else nullcontext():
                try:
                    return mapped(*arguments)
                except RuntimeError as error:
                    cause = str(error).strip().partition("\n")[0]
                    if self.learner.modes.mode != "vmap" or not ("vmap" in cause or "Batching" in cause):
                        raise
                    raise RuntimeError(
                        f"`mode` must be 'loop' or 'auto' for what vmap cannot take; got 'vmap': {cause}"
                    ) from error

        return each

    def _scalar(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.learner.task_loss is F.cross_entropy or isinstance(
            self.learner.task_loss, nn.CrossEntropyLoss
        ):
            self._check_classes(outputs, targets)
        value = self.learner.task_loss(outputs, targets)
        if not isinstance(value, Tensor):
            raise TypeError(
                f"`loss` must return a tensor that depends on the outputs; got {type(value).__name__}. "
                "Return it without item()."
            )
        if value.ndim:
            raise ValueError(
                f"`loss` must return one number a task; got the shape {tuple(value.shape)}. Take its mean."
            )
        return value

    def _check_classes(self, outputs: Any, targets: Tensor) -> None:
        """Raises for what cross entropy cannot take, in the terms of episodes."""
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"`network` must return one tensor for this `loss`; got {type(outputs).__name__}. Pass a "
                "`loss` that takes what it returns."
            )
        if targets.is_floating_point() and outputs.ndim == 2 and outputs.shape[1] == 1:
            raise ValueError(
                "`loss` must depend on the outputs; got cross entropy, which is 0 for any one output. Pass "
                "the loss of a regression, as loss=F.mse_loss."
            )
        if targets.ndim > 1 and targets.shape == outputs.shape and not targets.is_floating_point():
            raise ValueError(
                "labels must be one whole number an example for cross entropy; got the shape "
                f"{tuple(targets.shape)}. Undo a one-hot code by argmax(-1), or pass probabilities as floats."
            )
        if targets.ndim != 1 or outputs.ndim != 2:
            return
        if targets.is_floating_point():
            raise ValueError(
                f"labels must be whole numbers for cross entropy; got {targets.dtype}. Make them int64, or "
                "pass the loss of a regression, as loss=F.mse_loss."
            )
        if outputs.shape[1] < self.n_way:
            raise ValueError(
                f"`network` must have an output for each class of a task, {self.n_way}; got "
                f"{outputs.shape[1]}. Widen its last layer or draw episodes of fewer ways."
            )


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Fused attention has neither a second derivative nor a rule for vmap, in evaluation mode too."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _places(network: nn.Module) -> dict[str, str]:
    """Each place that holds a parameter or buffer, and the name that it is listed by.

    A tied one has several places. A module that is called at several has its own once: torch's own handling
    of ties swaps such a module's tensors twice, and leaves the wrong ones in the network.
    """
    listed = {id(tensor): name for name, tensor in [*network.named_parameters(), *network.named_buffers()]}
    return {
        f"{prefix}.{name}" if prefix else name: listed[id(tensor)]
        for prefix, module in network.named_modules()
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]
        if tensor is not None
    }

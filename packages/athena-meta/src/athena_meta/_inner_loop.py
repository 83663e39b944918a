"""The inner loop: gradient steps on the support sets of all tasks, differentiable as far as is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from athena_meta._inner_update import InnerUpdate, Tensors
from athena_meta._random_state import random_state, repeated
from athena_meta._tasks import Tasks

Update = Callable[[Tensors, Tensors, Tensors, int], tuple[Tensors, Tensors]]


def inner_step(
    tasks: Tasks, update: Update, parameters: Tensors, state: Tensors, step: int
) -> tuple[Tensors, Tensors]:
    r"""Parameters and state after one more step,
    :math:`\phi_{t+1}, s_{t+1} = U(\phi_t, \nabla_\phi L_{\mathrm{support}}(\phi_t), s_t)`.

    The tasks are independent, so that the gradient of the sum of their losses is each one's own. Below second
    order it is taken at detached parameters: the graph of a step is freed with it, and only the updates
    themselves connect :math:`\phi_T` to :math:`\theta`.

    Parameters without a gradient stay as they are. Raises ValueError if none has one.
    """
    second = tasks.order == 2
    with torch.enable_grad():
        at = parameters
        if not second:
            at = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        losses = tasks.support_losses(at, step=step)
        found: tuple[Tensor | None, ...] = (None,) * len(at)
        if losses.requires_grad:
            found = torch.autograd.grad(
                losses.sum(), tuple(at.values()), create_graph=second, allow_unused=True
            )
    gradients = {name: gradient for name, gradient in zip(at, found, strict=True) if gradient is not None}
    if not gradients:
        raise ValueError(
            "the inner loss must depend on an adapted parameter; got no gradient for any of "
            f"{', '.join(at)}. Look for a detach(), an argmax, or too narrow an `adapted`."
        )
    with torch.set_grad_enabled(tasks.order > 0):
        used = {name: parameters[name] for name in gradients}
        moved, state_tp1 = update(used, gradients, state, step)
    return parameters | moved, state | state_tp1


def inner_loop(
    tasks: Tasks, update: InnerUpdate, steps: int, *, checkpoint: bool = False
) -> Iterator[Tensors]:
    r"""The parameters :math:`\phi_0, \ldots, \phi_T`, one after the other.

    Args:
        checkpoint: keep :math:`\phi_t` alone and do each step again in the backward pass; for second order.
    """
    parameters = tasks.initial()
    state = update.start(parameters)
    yield parameters
    for step in range(steps):
        if checkpoint and tasks.order == 2:
            parameters, state = _checkpointed(tasks, update, parameters, state, step)
        else:
            parameters, state = inner_step(tasks, update, parameters, state, step)
        yield parameters


class _Step(torch.autograd.Function):
    """An inner step that keeps its inputs alone, and is done again, with its graph, in the backward pass."""

    @staticmethod
    def forward(ctx: Any, again: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.again, ctx.random_state = again, random_state(inputs[0].device)
        ctx.autocast = _autocast_now(inputs[0].device.type)
        ctx.save_for_backward(*inputs)
        return tuple(output.detach() for output in again(inputs, 0))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        wanted = ctx.needs_input_grad[1:]
        inputs = [
            tensor.detach().requires_grad_(want)
            for tensor, want in zip(ctx.saved_tensors, wanted, strict=True)
        ]
        with torch.enable_grad(), ctx.autocast, repeated(ctx.random_state, inputs[0].device):
            outputs = ctx.again(inputs, 2)
        pairs = [pair for pair in zip(outputs, grads, strict=True) if pair[0].requires_grad]
        found = iter(
            torch.autograd.grad(
                [output for output, _ in pairs],
                [tensor for tensor in inputs if tensor.requires_grad],
                [grad for _, grad in pairs],
                allow_unused=True,
            )
        )
        return None, *(next(found) if want else None for want in wanted)


def _checkpointed(
    tasks: Tasks, update: InnerUpdate, parameters: Tensors, state: Tensors, step: int
) -> tuple[Tensors, Tensors]:
    """:func:`inner_step` through :class:`_Step`, which takes what the step depends on as plain tensors."""
    rates = dict(update.named_parameters())
    groups = (parameters, state, tasks.trainable(), rates)
    names: list[str] = []

    def again(flat: Any, order: int) -> tuple[Tensor, ...]:
        tensors = iter(flat)
        parameters, state, trainable, rates = ({name: next(tensors) for name in group} for group in groups)
        parameters, state = inner_step(
            tasks.repeated(trainable, order=order),
            lambda *given: functional_call(update, rates, given),
            *(parameters, state, step),
        )
        names[:] = state
        return *parameters.values(), *state.values()

    outputs = _Step.apply(again, *(tensor for group in groups for tensor in group.values()))
    assert outputs is not None
    moved = dict(zip(parameters, outputs, strict=False))
    return moved, dict(zip(names, outputs[len(parameters) :], strict=True))


def _autocast_now(kind: str) -> AbstractContextManager[Any]:
    """The autocast as it is here: a backward pass may be outside of it, or in a thread that knows none."""
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    return torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))

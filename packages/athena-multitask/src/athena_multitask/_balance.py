"""One step's gradients from several losses, balanced where parameters are shared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from athena_core import without_autocast
from athena_multitask._balance_checks import Method, check_losses, check_options, checked_shared
from athena_multitask._balance_group import Group, average, count_tasks, resolve_group
from athena_multitask._balancer import Balancer
from athena_multitask._gramian import gramian_of
from athena_multitask._task_gradients import differentiate


@dataclasses.dataclass(frozen=True)
class Balanced:
    """What `balance` found out on its way.

    Args:
        tasks: names, in the order of the rows.
        gramian: inner products of the tasks' gradients of the shared parameters, ``(tasks, tasks)``.
        weights: of the tasks in what was written; None where the method chooses no weights of tasks.
        nonfinite: tasks whose loss or gradient was not finite; if there are any, nothing was balanced.

    >>> Balanced(("a", "b"), torch.tensor([[4.0, -2.0], [-2.0, 4.0]]), None, ()).cosines[0, 1]
    tensor(-0.5000)
    """

    tasks: tuple[str, ...]
    gramian: Tensor
    weights: Tensor | None
    nonfinite: tuple[str, ...]

    @property
    def cosines(self) -> Tensor:
        """Cosines between the gradients of each two tasks, ``(tasks, tasks)``; 0 for a gradient of zero."""
        inverse = torch.where(self.norms > 0, 1 / self.norms, 0)
        # One norm after the other: their product would leave float32 where gradients are tiny or huge.
        return (self.gramian * inverse[:, None] * inverse).clamp(-1, 1)

    @property
    def norms(self) -> Tensor:
        """Norms of the tasks' gradients, ``(tasks,)``."""
        return self.gramian.diagonal().clamp(min=0).sqrt()


def balance(
    losses: Mapping[str, Tensor],
    *,
    shared: Iterable[Tensor],
    method: Method,
    heads: Mapping[str, Iterable[Tensor]] | None = None,
    scaler: GradScaler | None = None,
    nonfinite: Literal["raise", "skip"] = "raise",
    retain_graph: bool = False,
    group: Group = "world",
) -> Balanced:
    r"""Add balanced gradients of shared parameters to ``.grad``, and plain gradients of all others.

    .. math:: J_t = \nabla_\theta L_t, \qquad \theta.\text{grad} \mathrel{+}= A(J), \qquad
        \phi.\text{grad} \mathrel{+}= \nabla_\phi \sum_t L_t

    with :math:`\theta` all shared parameters together, flattened into one vector, and :math:`\phi` every
    other parameter that a loss depends on: heads, and what lies below the shared parameters. Take the place
    of ``backward()`` by it. Memory is that of the plain step, the matrix :math:`J`, and one gradient.

    Accumulation: calls add up, each balanced on its own. Methods are not linear; to balance a batch as one,
    give its losses in one call.

    Mixed precision: give the losses as they are, and the scaler. Gradients are unscaled before the method
    sees them and scaled again in ``.grad``, for ``scaler.step(optimizer)``. Where finite losses have
    gradients that overflowed, these are written as they are: the scaler then leaves the step out and lowers
    its scale.

    Several processes: each task's gradients are averaged over the processes of ``group`` that have the task,
    then balanced, in each process alike (seeds and states of the method must be equal). ``no_sync`` is not
    needed: no hook of ``DistributedDataParallel`` runs, wrapped or not. With a model that is not wrapped,
    start from equal parameters. A task, or a part of the model, may be missing in some processes if ``heads``
    are given; parameters of a task that is missing in all get no gradient, thus no decay.

    Activation checkpoints need ``use_reentrant=False``; an encoder that was compiled may need
    ``torch._functorch.config.donated_buffer = False``, being differentiated once a task.

    Args:
        losses: one scalar a task, by name.
        shared: the parameters to balance, each once or more; those that are frozen are left out.
        method: a `Balancer`, or any function of the matrix such as an aggregator of TorchJD.
        heads: parameters of each task that may occur, by its name; only needed where tasks, or parameters
            that are not shared, are missing in some processes, and to have names checked.
        scaler: of mixed precision.
        nonfinite: what to do if the loss of a task, or its gradient of shared parameters, is not finite:
            raise, or skip, which changes nothing.
        retain_graph: keep the graph, to differentiate it again.
        group: processes over which to average: ``"world"`` is all, or this one alone where
            ``torch.distributed`` is not initialised; None is this one alone.

    Shape: losses ``()``.

    Raises ValueError for losses that are not scalar, lie on different devices or depend on no shared
    parameter, a name that ``heads`` lacks, other tasks than the method remembers, no shared parameter or a
    complex one, a direction of another shape, or a task that is not finite; TypeError for what is no method,
    no parameter or no tensor.

    Source: Yu et al. 2020, arXiv:2001.06782 (shared and task parameters). Departs from it: no.

    >>> from athena_multitask import PCGrad
    >>> from torch import nn
    >>> encoder, heads = nn.Linear(3, 4), nn.ModuleDict({"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)})
    >>> features = encoder(torch.ones(5, 3)).tanh()
    >>> losses = {name: head(features).square().mean() for name, head in heads.items()}
    >>> balanced = balance(losses, shared=encoder.parameters(), method=PCGrad(seed=0))
    >>> balanced.tasks, balanced.cosines.shape, encoder.weight.grad.shape
    (('a', 'b'), torch.Size([2, 2]), torch.Size([4, 3]))
    """
    parameters, device = checked_shared(shared)
    processes = resolve_group(group)
    known = None if heads is None else {name: list(given) for name, given in heads.items()}
    check_losses(losses, known, device, may_be_empty=processes is not None)
    check_options(method, nonfinite)
    counts = count_tasks(losses, known, processes, device)
    if isinstance(method, Balancer):
        method.name_rows(tuple(counts))
    scale = None if scaler is None else scaler.scale(torch.ones((), device=device))
    with without_autocast(device.type):
        found = differentiate(losses, parameters, counts, scale=scale, retain_graph=retain_graph)
        if processes is not None:
            found = average(found, counts, known, processes)
        matrix = found.matrix if scale is None else found.matrix.div_(scale)
        gramian = gramian_of(matrix)
        lost = tuple(name for name, row in zip(counts, _lost(found.failed, gramian), strict=True) if row)
        overflowed = bool(lost) and scale is not None and not found.failed.any()
        if lost and not overflowed:
            if nonfinite == "raise":
                raise ValueError(
                    "`losses` must be finite, and their gradients of `shared`; got "
                    f'{", ".join(lost)} not to be. Mend the cause, or pass `nonfinite="skip"`.'
                )
            return Balanced(tuple(counts), gramian, None, lost)
        weights, direction = (None, matrix.sum(0)) if overflowed else _apply(method, matrix, gramian)
        _write(parameters, direction if scale is None else direction * scale, found.others)
    return Balanced(tuple(counts), gramian, weights, lost)


def _lost(failed: Tensor, gramian: Tensor) -> list[bool]:
    return (failed | ~gramian.diagonal().isfinite()).tolist()


def _apply(method: Method, matrix: Tensor, gramian: Tensor) -> tuple[Tensor | None, Tensor]:
    """The weights where the method has some, and the direction."""
    if not isinstance(method, Balancer):
        direction = method(matrix)
        expected, found = tuple(matrix.shape[1:]), tuple(direction.shape)
        if found != expected:
            raise ValueError(
                f"`method` must return a direction of {expected}; got {found}. Give one number a parameter."
            )
        return None, direction.clone()  # it may be the method's own, and later steps add to what is written
    if method.needs_matrix:
        return None, method.direction(matrix)
    weights = method.weights(gramian)
    return weights, weights.to(matrix.dtype) @ matrix


def _write(parameters: Sequence[Tensor], direction: Tensor, others: Mapping[Tensor, Tensor]) -> None:
    parts = direction.split([parameter.numel() for parameter in parameters])
    pairs = zip(parameters, parts, strict=True)
    shaped = ((parameter, part.view(parameter.shape).to(parameter.dtype)) for parameter, part in pairs)
    # Two parameters may have been given one gradient, or one that is only expanded: each gets its own.
    copies = ((parameter, gradient.clone()) for parameter, gradient in others.items())
    with torch.no_grad():
        for parameter, gradient in [*shaped, *copies]:
            if parameter.grad is None:
                parameter.grad = _laid_out(gradient, parameter)
            else:
                parameter.grad.add_(gradient)


def _laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient with the parameter's strides, as autograd has it: fused optimizers go by memory alone."""
    if gradient.is_sparse or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)

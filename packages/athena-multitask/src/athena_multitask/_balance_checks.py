"""What is asked of the arguments of `balance`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from athena_multitask._balancer import Balancer
from athena_multitask._loss_graph import LossGraph

Method = Balancer | Callable[[Tensor], Tensor]


def checked_shared(shared: Iterable[Tensor]) -> tuple[list[Tensor], torch.device]:
    """Each parameter once that is not frozen, and the device of all.

    Raises ValueError if there is none, they lie on several devices or are complex; TypeError for what is no
    parameter, such as the rows of one.
    """
    given = list(dict.fromkeys(shared))
    if others := [one for one in given if not (isinstance(one, Tensor) and one.is_leaf)]:
        raise TypeError(
            f"`shared` must hold parameters; got a {type(others[0]).__name__}. Give `encoder.parameters()`."
        )
    parameters = [parameter for parameter in given if parameter.requires_grad]
    if not parameters:
        raise ValueError(
            "`shared` must hold a parameter that requires a gradient; got none. "
            "Give `encoder.parameters()`, anew in each call."
        )
    if any(parameter.is_complex() for parameter in parameters):
        raise ValueError(
            "`shared` must hold real parameters; got a complex one. "
            "Hold its two parts, and join them by `torch.view_as_complex` where it is used."
        )
    devices = {parameter.device for parameter in parameters}
    if len(devices) > 1:
        found = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"`shared` must lie on one device; got {found}. Move them to one.")
    return parameters, parameters[0].device


def check_losses(
    losses: Mapping[str, Tensor], known: Collection[str] | None, device: torch.device, *, may_be_empty: bool
) -> None:
    """Raises ValueError for losses that are none, not scalar or elsewhere, or an unknown name.

    Raises TypeError for losses that have no name, or are no tensors.
    """
    if not isinstance(losses, Mapping):
        raise TypeError(
            f'`losses` must be scalars by name; got a {type(losses).__name__}. Give {{"depth": loss}}.'
        )
    if not losses and not (may_be_empty and known):
        raise ValueError("`losses` must hold the loss of a task; got none. Leave the step out.")
    for name, loss in losses.items():
        if known is not None and name not in known:
            raise ValueError(
                f"`losses` must be of tasks in `heads`, {list(known)}; got {name!r}. Add its head."
            )
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"`losses[{name!r}]` must be a tensor; got a {type(loss).__name__}. Leave out `item()`."
            )
        if loss.ndim:
            raise ValueError(
                f"`losses[{name!r}]` must be a scalar; got the shape {tuple(loss.shape)}. Take its mean."
            )
        if loss.device != device:
            raise ValueError(
                f"`losses[{name!r}]` must lie on {device} as `shared` does; got {loss.device}. Move it there."
            )


def check_options(method: Method, nonfinite: str) -> None:
    """Raises TypeError for what is no method, ValueError for an unknown policy."""
    if not isinstance(method, Balancer) and (isinstance(method, type) or not callable(method)):
        raise TypeError(
            f"`method` must be a `Balancer` or a function of a matrix; got {method!r}. Take `PCGrad()`."
        )
    if nonfinite not in ("raise", "skip"):
        raise ValueError(f'`nonfinite` must be "raise" or "skip"; got {nonfinite!r}. Take "raise".')


def check_dependence(names: Sequence[str], graph: LossGraph, shared: Collection[Tensor]) -> None:
    """Raises ValueError for a loss none of whose leaves is shared."""
    shared = set(shared)
    for name, own in zip(names, graph.own, strict=True):
        if shared.isdisjoint(own) and shared.isdisjoint(graph.common):
            raise ValueError(
                f"`losses[{name!r}]` must depend on a parameter of `shared`; got a loss of none of them. "
                "Leave it out, or look for `detach`, `no_grad` and reentrant checkpoints."
            )

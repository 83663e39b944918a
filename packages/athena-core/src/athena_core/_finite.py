"""Stop at the first number that is not finite, and say which it was."""

from __future__ import annotations

import torch
from torch.nn.utils import get_total_norm

from athena_core._errors import AthenaError


class NotFinite(AthenaError):  # noqa: N818
    """A loss, gradient or parameter is NaN or infinite.

    >>> model = torch.nn.Linear(2, 1)
    >>> loss = model(torch.full((1, 2), float("nan"))).sum()
    >>> loss.backward()
    >>> try:
    ...     check_finite(7, model, loss)
    ... except NotFinite as error:
    ...     print(str(error).partition(".")[0])
    not finite at step 7: the gradient of `weight` was first
    """


def check_finite(step: int, model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    """The global norm of the gradients; `NotFinite` names the first parameter or gradient that is not.

    One reduction over the gradients in the usual case; the search runs only after a failure.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = get_total_norm(gradients) if gradients else loss.new_zeros(())
    loss = loss.detach()
    if bool(torch.isfinite(loss).all() & torch.isfinite(norm)):
        return norm
    refuse_not_finite(step, model)
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            raise NotFinite(_message(step, f"the gradient of `{name}`"))
    what = "the loss" if not torch.isfinite(loss).all() else "the norm of the gradients"
    raise NotFinite(_message(step, f"{what}, with finite parameters and gradients,"))


def refuse_not_finite(step: int, model: torch.nn.Module, prefix: str = "") -> None:
    """Raise `NotFinite`, naming it, if a parameter is not finite."""
    for name, parameter in model.named_parameters(prefix=prefix):
        if not torch.isfinite(parameter).all():
            raise NotFinite(_message(step, f"the parameter `{name}`"))


def _message(step: int, what: str) -> str:
    return (
        f"not finite at step {step}: {what} was first. Checkpoints are from before; "
        "lower the learning rate or clip gradients, and start a new run."
    )

"""Weights to evaluate a model with, of optimizers that train with others."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch.optim import Optimizer


def evaluation_weights(optimizer: Optimizer) -> AbstractContextManager[None]:
    """A context in which the parameters hold the weights to evaluate with, and after which those to train.

    `Lookahead` evaluates its slow weights, `ScheduleFreeAdamW` its average, a wrapper what the optimizer
    inside it does. The parameters of any other optimizer, torch's among them, are left alone, so that a
    training loop can evaluate with every optimizer alike.

    Args:
        optimizer: any optimizer; one with a method ``evaluation_weights`` decides itself, and of one that
            holds another as ``.optimizer``, as Accelerate's does, the inner one decides.

    Raises TypeError for anything else.

    >>> import torch
    >>> from athena_optim import Lookahead
    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Lookahead(torch.optim.SGD([weight], lr=0.25), k=5)
    >>> weight.grad = torch.ones(1)
    >>> optimizer.step()
    >>> with evaluation_weights(optimizer):
    ...     weight.item()
    1.0
    >>> weight.item()
    0.75
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"`optimizer` must be a torch.optim.Optimizer; got {type(optimizer).__name__}. "
            "Pass the optimizer, not the model."
        )
    method = getattr(optimizer, "evaluation_weights", None)
    if method is not None:
        return method()
    inner = getattr(optimizer, "optimizer", None)  # Accelerate's, and others that hold one
    return evaluation_weights(inner) if isinstance(inner, Optimizer) else nullcontext()

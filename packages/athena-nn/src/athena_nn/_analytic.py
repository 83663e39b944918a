"""A formula with a faster body and an analytic gradient where eager autograd runs, and itself elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad
from torch.nn import Parameter

_any_requires_grad = torch._C._any_requires_grad
_transforms_active = torch._C._are_functorch_transforms_active

Forward = Callable[..., tuple[Tensor, tuple[Tensor | None, ...]]]
Backward = Callable[..., tuple[Tensor | None, ...]]


def analytic(
    formula: Callable[..., Tensor], forward: Forward, backward: Backward, *, traced: bool = False
) -> Callable[..., Tensor]:
    """Return a function equal to ``formula`` that runs ``forward`` and ``backward`` in eager mode.

    The formula itself runs under `torch.func` transforms and forward-mode differentiation, and is what
    is differentiated where the gradient's own gradient is wanted (``create_graph``) or a batch of
    gradients is (``is_grads_batched``). So neither body needs to be differentiable or batchable.

    Args:
        formula: plain torch, differentiable as often as wanted.
        forward: called as ``forward(needed, *args)``, where ``needed`` says for each argument whether it
            needs a gradient; returns the output and the tensors to save beside the arguments.
        backward: called as ``backward(needed, saved, args, grad)``, outside autocast; returns one
            gradient, or None, for each argument.
        traced: whether compilers and other tensor subclasses see the bodies rather than the formula.
    """

    class Analytic(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            output, saved = forward(ctx.needs_input_grad, *args)
            ctx.n_saved = len(saved)
            ctx.constants = [None if isinstance(one, Tensor) else one for one in args]
            ctx.slots = [i for i, one in enumerate(args) if isinstance(one, Tensor)]
            ctx.save_for_backward(*saved, *(args[i] for i in ctx.slots))
            return output

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            everything = ctx.saved_tensors  # asked for once: activation checkpointing allows no more
            saved, tensors = everything[: ctx.n_saved], everything[ctx.n_saved :]
            args = list(ctx.constants)
            for i, one in zip(ctx.slots, tensors, strict=True):
                args[i] = one
            if autocasting(grad.device.type):  # where backward() is called inside the region
                with torch.autocast(grad.device.type, enabled=False):
                    return differentiate(ctx.needs_input_grad, saved, args, grad)
            return differentiate(ctx.needs_input_grad, saved, args, grad)

    def differentiate(needed: Any, saved: Any, args: Any, grad: Tensor) -> Any:
        if torch.is_grad_enabled() or _transforms_active() or is_legacy_batchedtensor(grad):
            return _through(formula, needed, args, grad)
        return backward(needed, saved, args, grad)

    def run(*args: Any) -> Tensor:
        if transformed() or not (traced or plain(args)):
            return formula(*args)
        if torch.is_grad_enabled() and _any_requires_grad(*args):
            return Analytic.apply(*args)
        return forward((False,) * len(args), *args)[0]

    return run


def autocasting(device_type: str) -> bool:
    """Whether autocast is on; torch has none for ``meta``, and raises if asked."""
    return device_type != "meta" and torch.is_autocast_enabled(device_type)


def transformed() -> bool:
    """Whether a transform of `torch.func`, or forward-mode differentiation, is active."""
    return _transforms_active() or forward_ad._current_level >= 0


def plain(args: Sequence[Any]) -> bool:
    """Whether no tensor is a compiler's, a fake one, or distributed: those see the formula."""
    for one in args:  # a loop, since a generator would cost a tenth of the norm of a single row
        kind = type(one)
        if kind is not Tensor and kind is not Parameter and isinstance(one, Tensor):
            return False
    return True


def _through(
    formula: Callable[..., Tensor], needed: Sequence[bool], args: Sequence[Any], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradient by way of the formula's own graph."""
    with torch.enable_grad():
        # Views, so that a tensor given as two arguments has a gradient for each.
        inputs = [one.view_as(one) if isinstance(one, Tensor) else one for one in args]
        wanted = [one for one, need in zip(inputs, needed, strict=True) if need]
        found = iter(torch.autograd.grad(formula(*inputs), wanted, grad, create_graph=True))
    return tuple(next(found) if need else None for need in needed)

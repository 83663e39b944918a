"""The gradient of a kernel: its own formula, or the reference's where a gradient's gradient is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from athena_core._errors import KernelFailed


def differentiable(
    name: str,
    formula: Any,
    reference: Callable[..., Any],
    forward: Callable[..., Any],
    is_tensor: Sequence[bool],
    failed: Callable[[KernelFailed], None],
) -> Callable[..., Any]:
    """Return a function of the op's arguments that autograd knows as one step.

    Args:
        name: for errors.
        formula: has ``backward(ctx, *grads)`` and either ``setup_context(ctx, inputs, output)``, as
            `torch.library.register_autograd` takes them, or ``forward(ctx, *inputs)``, which then runs
            in ``forward``'s stead and returns the output.
        reference: differentiated in the formula's stead under ``create_graph``, and where the formula's
            own kernels fail. That is why the tensors among the arguments are saved beside what the
            formula saves.
        forward: called as ``forward(*args)``.
        is_tensor: for each of the op's parameters.
        failed: told of a KernelFailed in the formula. Returns if the reference is to be differentiated,
            for the other steps of this kind that wait for their gradient too, or raises.
    """
    formula_runs = True
    slots = [i for i, one in enumerate(is_tensor) if one]
    others = [i for i, one in enumerate(is_tensor) if not one]
    own_forward = getattr(formula, "forward", None)

    class KernelFunction(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = forward(*inputs) if own_forward is None else own_forward(ctx, *inputs)
            if isinstance(output, list):
                output = tuple(output)
            if own_forward is None:
                formula.setup_context(ctx, inputs, output)
            own = ctx.to_save or ()
            ctx.n_own = len(own)
            ctx.constants = [inputs[i] for i in others]
            ctx.save_for_backward(*own, *[inputs[i] for i in slots])
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            nonlocal formula_runs
            saved, needed = ctx.saved_tensors, ctx.needs_input_grad
            create_graph = torch.is_grad_enabled()
            if formula_runs and not create_graph:
                try:
                    found = formula.backward(_FormulaContext(ctx, saved[: ctx.n_own]), *grads)
                except KernelFailed as error:
                    failed(error)
                    formula_runs = False
                else:
                    return _as_tuple(name, found, needed)
            tensors, constants = iter(saved[ctx.n_own :]), iter(ctx.constants)
            args = [next(tensors if one else constants) for one in is_tensor]
            return tuple(_reference_vjp(reference, args, grads, needed, create_graph))

    # `Function.apply` itself looks for functorch transforms first, for 1.5 us; the caller has done so.
    return super(torch.autograd.Function, KernelFunction).apply  # pyright: ignore[reportAttributeAccessIssue]


class _FormulaContext:
    """The context as the formula knows it: with what the formula itself has saved."""

    def __init__(self, ctx: Any, saved_tensors: tuple[Tensor, ...]) -> None:
        self._ctx = ctx
        self.saved_tensors = saved_tensors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def _as_tuple(name: str, found: Any, needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
    found = found if isinstance(found, tuple) else (found,)
    if len(found) != len(needed):
        raise RuntimeError(
            f"{name}: `backward` must return a gradient or None for each of the op's {len(needed)}"
            f" parameters; got {len(found)}."
        )
    if any(need and grad is None for need, grad in zip(needed, found, strict=True)):
        raise RuntimeError(f"{name}: `backward` gives no gradient for an argument that needs one.")
    return found


def _reference_vjp(
    reference: Callable[..., Any],
    args: Sequence[Any],
    grads: Sequence[Tensor | None],
    needed: Sequence[bool],
    create_graph: bool,
) -> list[Tensor | None]:
    with torch.enable_grad():
        # Views, so that a tensor given as two arguments has a gradient for each.
        inputs = [one.view_as(one) if isinstance(one, Tensor) else one for one in args]
        outputs = reference(*inputs)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        pairs = [
            (out, grad)
            for out, grad in zip(outputs, grads, strict=True)
            if grad is not None and out.requires_grad
        ]
        found = iter(
            torch.autograd.grad(
                [out for out, _ in pairs],
                [one for one, need in zip(inputs, needed, strict=True) if need],
                [grad for _, grad in pairs],
                create_graph=create_graph,
                allow_unused=True,
            )
        )
    return [next(found) if need else None for need in needed]

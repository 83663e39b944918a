"""An op's arguments and results under test: copied, laid out, differentiated and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from athena_core import _kernels


def _tensors(tree: Any) -> list[Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, Tensor)]


def _differentiable(one: Any) -> bool:
    return isinstance(one, Tensor) and one.is_floating_point()


def _copy(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copy each tensor, in the memory layout that it has."""

    def copied(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        last = sum((size - 1) * stride for size, stride in zip(one.shape, one.stride(), strict=True))
        buffer = one.new_empty(one.storage_offset() + max(last, 0) + 1)
        return buffer.as_strided(one.shape, one.stride(), one.storage_offset()).copy_(one).detach()

    return tree_map(copied, args)


def _exact(args: tuple[Any, ...]) -> tuple[Any, ...]:
    def exact(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        return one.to("cpu", torch.float64 if one.is_floating_point() else one.dtype, copy=True)

    return tree_map(exact, args)


def _spread(one: Tensor) -> Tensor:
    wide = one.new_zeros(*one.shape[:-1], 2 * one.shape[-1])[..., ::2] if one.dim() else one
    return wide.copy_(one)


def _layouts(args: tuple[Any, ...]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the arguments as they are, and with the same values laid out otherwise in memory."""

    def shifted(one: Tensor) -> Tensor:
        return one.new_zeros(one.numel() + 1)[1:].view(one.shape).copy_(one)

    def transposed(one: Tensor) -> Tensor:
        return one.mT.contiguous().mT if one.dim() > 1 else one

    yield "as drawn", args
    for name, change in (("spread", _spread), ("shifted", shifted), ("transposed", transposed)):
        yield name, tree_map(lambda x, f=change: f(x) if isinstance(x, Tensor) else x, args)


def _is_stale(loss: Tensor) -> bool:
    try:
        loss.backward()
    except RuntimeError as error:
        return "modified by an inplace operation" in str(error)
    return False


def _changed(op: _kernels.Op, args: tuple[Any, ...]) -> list[Tensor]:
    return _tensors([args[i] for i in op.mutated if i < len(args)])


def _outcome(op: _kernels.Op, function: Callable[..., Any], args: tuple[Any, ...]) -> list[Tensor]:
    """Return the results, and the arguments that the op changes."""
    with torch.no_grad():
        result = function(*args)
    return _tensors(result) + _changed(op, args)


def _cotangents(outputs: list[Tensor]) -> list[Tensor]:
    """Return fixed weights of no symmetry, the same in every dtype up to rounding.

    Those of an odd number of elements have gaps, as the gradients of slices have.
    """
    dense = [(torch.arange(one.numel()) * 0.7).cos().reshape(one.shape).to(one) for one in outputs]
    return [_spread(one) if one.numel() % 2 else one for one in dense]


def _leaves(args: tuple[Any, ...], only: int | None = None) -> tuple[tuple[Any, ...], list[Tensor]]:
    args = _copy(args)
    wanted = [one for one in _tensors(args) if _differentiable(one)]
    wanted = wanted if only is None else [wanted[only]]
    for one in wanted:
        one.requires_grad_()
    return args, wanted


def _gradients(function: Callable[..., Any], args: tuple[Any, ...], only: int | None = None) -> list[Tensor]:
    args, wanted = _leaves(args, only)
    outputs = [one for one in _tensors(function(*args)) if one.requires_grad]
    assert outputs, "no result requires a gradient"
    # Arguments on which nothing depends smoothly have a gradient of zeros.
    return list(torch.autograd.grad(outputs, wanted, _cotangents(outputs), materialize_grads=True))


def _second_gradients(function: Callable[..., Any], args: tuple[Any, ...]) -> list[Tensor]:
    args, wanted = _leaves(args)
    outputs = [one for one in _tensors(function(*args)) if one.requires_grad]
    weights = [one.requires_grad_() for one in _cotangents(outputs)]
    first = torch.autograd.grad(outputs, wanted, weights, create_graph=True)
    found = torch.autograd.grad(list(first), [*wanted, *weights], _cotangents(list(first)), allow_unused=True)
    pairs = zip(found, [*wanted, *weights], strict=True)
    return [torch.zeros_like(one) if grad is None else grad for grad, one in pairs]


def _compare(found: Any, expected: Any, tolerance: float, what: str, like: Any = None) -> None:
    """Assert equal values within the tolerance, and the dtype and shape of ``like``."""
    pairs = list(zip(_tensors(found), _tensors(expected), strict=True))
    for one, exact in pairs:
        assert one.shape == exact.shape, f"{what}: shape {tuple(one.shape)}, reference {tuple(exact.shape)}"
        exact = exact.detach().cpu().double()
        scale = max(1.0, exact.abs().max().item()) if exact.numel() else 1.0
        error = (one.detach().cpu().double() - exact).abs().max().item() / scale if exact.numel() else 0.0
        assert error <= tolerance, f"{what}: error {error:.2g} above {tolerance:.2g}"
    for one, other in zip(_tensors(found), _tensors(like), strict=True) if like is not None else ():
        assert one.dtype == other.dtype, f"{what}: {one.dtype}, reference {other.dtype}"


def _layout(tree: Any) -> list[tuple[Any, ...]]:
    """Describe tensors as a compiler relies on them; strides of one element say nothing."""
    return [
        (one.dtype, one.device, one.shape, [s for n, s in zip(one.shape, one.stride(), strict=True) if n > 1])
        for one in _tensors(tree)
        if one.numel()
    ]


def lowering() -> tuple[Any, list[torch.fx.GraphModule]]:
    """Return a backend for ``torch.compile`` that runs graphs as they are, and the list of those lowered."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch._aot_autograd.utils import make_boxed_func

    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    return aot_autograd(fw_compiler=keep), graphs


def called(graph: torch.fx.GraphModule) -> list[str]:
    """Name the ops that a graph calls; an op that changes arguments is wrapped in another."""
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    names = [str(c.args[0] if "auto_functionalized" in str(c.target) else c.target) for c in calls]
    return [name for name in names if "getitem" not in name]

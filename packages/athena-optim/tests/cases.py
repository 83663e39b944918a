"""All optimizers and wrappers of this package, one line each, and what the tests over all of them share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.testing._internal.common_optimizers import OptimizerInfo, optim_db

from athena_optim import (
    SAM,
    AdamW,
    CentralizedGradients,
    Lamb,
    Lion,
    Lookahead,
    Muon,
    ScheduleFreeAdamW,
)

#: Of elementwise arithmetic on numbers near 1, a few tens of roundings deep.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}

FLAGS = frozenset({"maximize", "foreach", "capturable", "differentiable"})
TORCHS = {info.optim_cls.__name__: info for info in optim_db}


@dataclass(frozen=True)
class Case:
    """One optimizer: how it is made, and what it claims.

    Args:
        make: from parameters or groups, and options.
        flags: those of torch's contract that it takes on the CPU.
        inputs: torch's optimizer whose inputs, those that ``make`` knows, are given to it.
        lr: its rate in tests/test_convergence.py.
        laws: those of tests/test_laws.py that it claims.
        excludes: two flags that it does not take together.
        exact: options with which its arithmetic is that of the parameters' dtype.
        precision: of a step whose arithmetic is rougher than the parameters' dtype.
        scratch: memory that a step takes beside the state, in sizes of the largest parameter.
        closure: whether a step needs one.
    """

    name: str
    make: Callable[..., Optimizer]
    flags: frozenset[str] = FLAGS
    inputs: str = "AdamW"
    lr: float = 0.3
    laws: frozenset[str] = frozenset()
    excludes: frozenset[str] = frozenset()
    exact: Mapping[str, Any] = field(default_factory=dict)
    precision: float = 0.0
    scratch: float = 1.0
    closure: bool = False

    @property
    def type(self) -> type[Optimizer]:
        """The class that is made."""
        return type(self.make([nn.Parameter(torch.zeros(1, 1))]))

    @property
    def info(self) -> OptimizerInfo:
        """What torch's own tests would be told."""
        known = inspect.signature(self.make).parameters
        torchs = TORCHS[self.inputs]

        def inputs(device: str, dtype: torch.dtype | None = None) -> list[Any]:
            # Those for a GPU hold capturable steps, which this package's own also take on the CPU.
            kinds = torchs.optim_inputs_func("cuda" if "capturable" in self.flags else device, dtype)
            return [one for one in kinds if one.kwargs.keys() <= known.keys() and not tensor_betas(one)]

        return OptimizerInfo(
            self.type,
            optim_inputs_func=inputs,
            supported_impls=tuple(sorted(self.flags & {"foreach", "fused", "differentiable"})),
            supports_fused_on=("cpu",),
            optim_error_inputs_func=torchs.optim_error_inputs_func,
        )


def tensor_betas(one: Any) -> bool:
    """Whether an input of torch's has betas that are tensors, which only torch's own Adam takes."""
    return any(isinstance(beta, Tensor) for beta in one.kwargs.get("betas", ()))


def wrapped(wrap: Callable[[Optimizer], Optimizer], inner: Callable[..., Optimizer]) -> Callable[..., Any]:
    """The factory of a wrapped optimizer; its signature is the inner one's."""

    def make(params: Iterable[Any], **options: Any) -> Optimizer:
        return wrap(inner(params, **options))

    make.__signature__ = inspect.signature(inner)  # type: ignore[attr-defined]
    return make


FUSED = FLAGS | {"fused"}
ELEMENTWISE = frozenset({"gradient scale", "permutation", "independent"})
MATRICES = frozenset({"gradient scale", "rows and columns", "independent"})
OPTIMIZERS = [
    Case("adamw", AdamW, FUSED - {"capturable"}, laws=ELEMENTWISE),
    Case("adamw-float32", partial(AdamW, precision="float32"), frozenset({"maximize"}), laws=ELEMENTWISE),
    Case("lamb", Lamb, FUSED, lr=0.1, laws=ELEMENTWISE, excludes=frozenset({"fused", "capturable"})),
    Case("lion", Lion, lr=0.1, laws=ELEMENTWISE),
    Case(
        "muon", Muon, inputs="Muon", laws=MATRICES, exact={"ns_dtype": "float64"}, precision=1e-2, scratch=2.5
    ),
    Case(
        "schedule-free-adamw",
        ScheduleFreeAdamW,
        laws=ELEMENTWISE,
        excludes=frozenset({"foreach", "capturable"}),
    ),
]
# Options go to the optimizer inside, whose flags hold; autograd runs through no wrapper.
INSIDE = frozenset({"maximize", "foreach", "fused"})
sam = partial(SAM, rho=0.01)
WRAPPERS = [
    Case("lookahead", wrapped(partial(Lookahead, k=2), AdamW), INSIDE),
    Case("centralized", wrapped(CentralizedGradients, AdamW), INSIDE),
    Case("sam", wrapped(sam, AdamW), INSIDE, closure=True),
    Case(
        "lookahead-centralized-lion",
        wrapped(lambda optimizer: Lookahead(CentralizedGradients(optimizer), k=2), Lion),
        INSIDE - {"fused"},
        lr=0.1,
    ),
    Case(
        "centralized-lookahead-adam",
        wrapped(lambda optimizer: CentralizedGradients(Lookahead(optimizer, k=2)), torch.optim.Adam),
        INSIDE,
        scratch=2.0,
    ),
    Case(
        "sam-lookahead-lamb",
        wrapped(lambda optimizer: sam(Lookahead(optimizer, k=2)), Lamb),
        INSIDE,
        lr=0.1,
        closure=True,
    ),
]
CASES = OPTIMIZERS + WRAPPERS


MATRIX_SHAPES = [(7, 5), (3, 2), (7, 5)]
SHAPES = [(7, 5), (5,), (3, 2, 4), (1,), (), (0,), (2, 65)]


def make_parameters(
    dtype: torch.dtype = torch.float32, shapes: Sequence[tuple[int, ...]] = SHAPES
) -> list[nn.Parameter]:
    """The same parameters each time, drawn in float64."""
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [nn.Parameter(draw.to(dtype)) for draw in draws]


def loss_closure(
    params: Sequence[Tensor], step: int, unused: Sequence[int] = (), scale: float = 1.0
) -> Callable[[], Tensor]:
    """What a step is given: a quadratic whose minimum is drawn anew each step.

    Args:
        unused: numbers of the parameters that get no gradient.
        scale: factor of the loss.
    """

    def closure() -> Tensor:
        generator = torch.Generator().manual_seed(step + 1)
        loss = torch.zeros((), dtype=torch.float64)
        for number, param in enumerate(params):
            target = torch.randn(param.shape, generator=generator, dtype=torch.float64)
            param.grad = None
            if number not in unused and param.requires_grad:
                loss = loss + scale * (param - target.to(param.dtype)).square().sum() / 2
        if loss.requires_grad:
            loss.backward()
        return loss.detach()

    return closure


def gradient_closure(params: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Callable[[], Tensor]:
    """What a step is given whose gradients are these very tensors, wherever the parameters are."""

    def closure() -> Tensor:
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient
        return torch.zeros(())

    return closure


def advance(
    optimizer: Optimizer, params: Sequence[Tensor], steps: Iterable[int], unused: Sequence[int] = ()
) -> None:
    """Take these steps of the drawn quadratics."""
    for step in steps:
        optimizer.step(loss_closure(params, step, unused))  # type: ignore[arg-type]


def draw_gradients(params: Sequence[Tensor], step: int = 0) -> list[Tensor]:
    """Gradients for these parameters, the same each time."""
    generator = torch.Generator().manual_seed(1000 + step)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) for p in params]


def tensors_of(optimizer: Optimizer) -> list[Tensor]:
    """All tensors of an optimizer's state dict, in its order."""
    found: list[Tensor] = []

    def walk(node: Any) -> None:
        if isinstance(node, Tensor):
            found.append(node)
        elif isinstance(node, dict):
            for value in node.values():
                walk(value)
        elif isinstance(node, list | tuple):
            for value in node:
                walk(value)

    walk(optimizer.state_dict())
    return found


def snapshot(optimizer: Optimizer, params: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the parameters and of all state."""
    return deepcopy([p.detach() for p in params] + tensors_of(optimizer))


def assert_same(ours: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """Bit for bit; NaNs are equal to each other."""
    assert len(ours) == len(others)
    for number, (a, b) in enumerate(zip(ours, others, strict=True)):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=lambda m, n=number: f"{n}: {m}")
